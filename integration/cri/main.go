// Command cri speaks to a CRI server on behalf of tests: each line of its input is a call, each line of its output the
// answer to one, in the order in which they come. Messages are protobuf's JSON, so every method and field of the API is
// there without a word about it here.
//
//	{"tag": 1, "method": "RunPodSandbox", "request": {…}}
//	{"tag": 1, "reply": {…}}   or   {"tag": 1, "code": "NotFound", "message": "…"}
//
// usage: cri ADDRESS, as in unix:///run/containerd/containerd.sock
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The longest that a call may take; tests have limits of their own that are shorter.
const limit = 5 * time.Minute

// The largest answer, as the kubelet takes it.
const largest = 16 << 20

type call struct {
	Tag     int             `json:"tag"`
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

type answer struct {
	Tag     int             `json:"tag"`
	Reply   json.RawMessage `json:"reply,omitempty"`
	Code    string          `json:"code,omitempty"`
	Message string          `json:"message,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cri ADDRESS")
		os.Exit(2)
	}
	server, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest)))
	if err == nil {
		err = serve(server, os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

// serve answers calls, each on its own, until the input ends and all are answered.
func serve(server *grpc.ClientConn, in io.Reader, out io.Writer) error {
	var (
		writing sync.Mutex
		under   sync.WaitGroup
	)
	defer under.Wait()
	lines := json.NewDecoder(bufio.NewReader(in))
	answers := json.NewEncoder(out)
	for {
		var one call
		if err := lines.Decode(&one); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a call: %w", err)
		}
		under.Go(func() {
			reply, err := invoke(server, one)
			said := answer{Tag: one.Tag, Reply: reply}
			if err != nil {
				failure := status.Convert(err)
				said.Code, said.Message = failure.Code().String(), failure.Message()
			}
			writing.Lock()
			defer writing.Unlock()
			if err := answers.Encode(said); err != nil {
				fmt.Fprintln(os.Stderr, "cri: writing an answer:", err)
			}
		})
	}
}

// invoke finds the method in the services' descriptors and calls it.
func invoke(server *grpc.ClientConn, one call) (json.RawMessage, error) {
	method, err := find(one.Method)
	if err != nil {
		return nil, err
	}
	request, err := message(method.Input())
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(one.Request, request); err != nil {
		return nil, fmt.Errorf("%s: %w", one.Method, err)
	}
	reply, err := message(method.Output())
	if err != nil {
		return nil, err
	}
	context, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	if err := server.Invoke(context, path, request, reply, grpc.WaitForReady(true)); err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(reply)
}

// find looks the method up in the two services of the API.
func find(name string) (protoreflect.MethodDescriptor, error) {
	for _, service := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		described, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			return nil, err
		}
		if method := described.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name)); method != nil {
			return method, nil
		}
	}
	return nil, fmt.Errorf("the API has no method %q", name)
}

func message(of protoreflect.MessageDescriptor) (proto.Message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	if err != nil {
		return nil, err
	}
	return kind.New().Interface(), nil
}
