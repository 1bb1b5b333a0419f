// Finds images that hold a library: find 127.0.0.1:50051 numpy
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"

	registry "ri/api/imageregistry"
)

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	request := &registry.FindImagesRequest{}
	for _, name := range os.Args[2:] {
		request.PipRequirements = append(request.PipRequirements, &registry.ManagedImage_PipRequirement{Name: name})
	}
	answer, err := registry.NewImageFinderClient(connection).FindImages(context.Background(), request)
	if err != nil {
		log.Fatal(err)
	}
	for _, found := range answer.Images {
		fmt.Printf("%s +%d\n", found.Image.Name, found.FurtherLibraries)
	}
}
