// Finds images that hold a library: node find.mjs http://127.0.0.1:50051 numpy
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ImageFinder } from "./ri/api/imageregistry/image_finder_pb.js";

const [address, ...libraries] = process.argv.slice(2);
const finder = createClient(ImageFinder, createGrpcTransport({ baseUrl: address }));
const { images } = await finder.findImages({ pipRequirements: libraries.map((name) => ({ name })) });
for (const { image, furtherLibraries } of images) console.log(`${image?.name} +${furtherLibraries}`);
