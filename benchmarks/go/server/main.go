// Command server answers GetImage and CreateImage on the registry's own tables: the bound that a compiled server sets.
//
// It does what the Python server does on the wire and in the database, and leaves out validation of requests, details of
// errors and deadlines. GetImage: one prepared SELECT, stored bytes as they are. CreateImage: image and job in one
// statement, as `storage/images.sql` has it. With -canned it answers without a database.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const selectImage = `select status, definition from images where name = $1`

const insertImage = `with image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
    select $1, 2, 1, b.python_version, b.platform_tag, b.id, $2 from images b where b.name = 'system-python-3-11'
    on conflict (name) do nothing returning id, name, definition
)
insert into jobs (kind, priority, image_id, image_name, repository, definition)
select 1, 0, id, name, 'oci:/images/managed/' || name, definition from image returning uuid::text`

type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error)      { return *(v.(*[]byte)), nil }
func (raw) Unmarshal(data []byte, v interface{}) error { *(v.(*[]byte)) = data; return nil }
func (raw) String() string                             { return "proto" }

type handler func(ctx context.Context, request []byte) ([]byte, error)

type server struct {
	pool   *pgxpool.Pool
	canned []byte
}

func (s *server) get(ctx context.Context, request []byte) ([]byte, error) {
	if s.canned != nil {
		return s.canned, nil
	}
	var state int16
	var definition []byte
	err := s.pool.QueryRow(ctx, selectImage, nameIn(request)).Scan(&state, &definition)
	if err == pgx.ErrNoRows {
		return nil, status.Error(codes.NotFound, "no image has this name")
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, "the database does not answer")
	}
	return field(1, append(definition, 4<<3, byte(state))), nil
}

func (s *server) create(ctx context.Context, request []byte) ([]byte, error) {
	if s.canned != nil {
		return s.canned, nil
	}
	name := nameIn(request)
	definition := field(1, []byte(name))
	var uuid string
	if err := s.pool.QueryRow(ctx, insertImage, name, definition).Scan(&uuid); err != nil {
		return nil, status.Error(codes.AlreadyExists, err.Error())
	}
	return append(field(1, append(definition, 4<<3, 1)), field(2, field(6, []byte(uuid)))...), nil
}

// nameIn reads field 1, a string, which both requests begin with.
func nameIn(request []byte) string {
	size, used := binary.Uvarint(request[1:])
	return string(request[1+used : 1+used+int(size)])
}

// field encodes a length-delimited field.
func field(number int, value []byte) []byte {
	var head [binary.MaxVarintLen64 + 1]byte
	head[0] = byte(number<<3 | 2)
	used := 1 + binary.PutUvarint(head[1:], uint64(len(value)))
	return append(head[:used:used], value...)
}

func method(name string, answer handler) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ interface{}, ctx context.Context,
		decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		response, err := answer(ctx, request)
		return &response, err
	}}
}

func main() {
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	dsn := flag.String("dsn", "", "the registry's database, as keywords and values")
	canned := flag.String("canned", "", "a file that is every answer; no database is used")
	flag.Parse()
	s := &server{}
	var err error
	if *canned != "" {
		s.canned, err = os.ReadFile(*canned)
	} else {
		s.pool, err = pgxpool.Connect(context.Background(), *dsn+" pool_max_conns=16")
	}
	check(err)
	listener, err := net.Listen("tcp", *address)
	check(err)
	g := grpc.NewServer(grpc.CustomCodec(raw{}))
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "rime.ImageRegistry",
		HandlerType: (*interface{})(nil),
		Methods:     []grpc.MethodDesc{method("GetImage", s.get), method("CreateImage", s.create)},
	}, s)
	fmt.Println("serving on", listener.Addr())
	check(g.Serve(listener))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
