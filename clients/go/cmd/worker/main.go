// Command worker serves one tool to the sessions of its tenant: it reads pages of one site.
//
// It offers get_page over ToolService.ServeTools, runs the calls that it gets side by side, stops those that are taken
// back, and connects again under its name when the stream is lost: the server then hands out again what it had not
// answered. Nothing outlives a stream, so a call is never run twice at the same time.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "turnkeeper.dev/go/gen/turnkeeper/v1"
)

const maxPage = 64 << 10

var (
	address  = flag.String("address", env("TURNKEEPER_ADDRESS", "127.0.0.1:7450"), "the server's host and port")
	workerID = flag.String("id", "pages", "the worker's name, the same after a restart")
	site     = flag.String("site", "https://example.com", "the site whose pages are read, and no other")
	grace    = flag.Duration("grace", 30*time.Second, "how long the server waits for a worker that was lost")
)

func main() {
	flag.Parse()
	base, err := url.Parse(*site)
	if err != nil || base.Host == "" {
		fmt.Fprintln(os.Stderr, "worker: -site is not the address of a site")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	defer connection.Close()
	if token := os.Getenv("TURNKEEPER_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	for backoff := 100 * time.Millisecond; ctx.Err() == nil; backoff = min(2*backoff, 5*time.Second) {
		wasOpen, err := serve(ctx, pb.NewToolServiceClient(connection), base)
		if ctx.Err() != nil {
			return
		}
		fmt.Fprintln(os.Stderr, "worker: connecting again:", err)
		if wasOpen {
			backoff = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
	}
}

// serve offers the tool and runs its calls until the stream ends; it says whether the stream was ever open.
func serve(ctx context.Context, client pb.ToolServiceClient, base *url.URL) (bool, error) {
	var calls sync.WaitGroup
	defer calls.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ServeTools(ctx)
	if err != nil {
		return false, err
	}
	tool := &pb.Tool{
		Name:            "get_page",
		Description:     "Read a page of " + base.String() + ".",
		InputSchemaJson: `{"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}`,
		ReplayClass:     pb.ReplayClass_REPLAY_CLASS_SAFE,
		IsParallel:      true,
	}
	offer := &pb.OfferTools{Tools: []*pb.Tool{tool}, ReconnectGrace: durationpb.New(*grace)}
	open := &pb.OpenWorker{WorkerId: *workerID, Offer: offer}
	if err := stream.Send(&pb.ServeToolsRequest{Frame: &pb.ServeToolsRequest_Open{Open: open}}); err != nil {
		_, err = stream.Recv() // Says why.
		return false, err
	}
	var mutex sync.Mutex // One sender at a time, and the leases.
	leases := map[string]context.CancelFunc{}
	for wasOpen := false; ; {
		response, err := stream.Recv()
		if err != nil {
			return wasOpen, err
		}
		switch item := response.Item.(type) {
		case *pb.ServeToolsResponse_Tools:
			wasOpen = true
			fmt.Printf("serving %v at %s\n", item.Tools.GetNames(), *address)
		case *pb.ServeToolsResponse_Invocation:
			given := item.Invocation
			callCtx, end := context.WithDeadline(ctx, given.GetDeadline().AsTime())
			mutex.Lock()
			leases[given.GetLeaseId()] = end
			mutex.Unlock()
			calls.Go(func() {
				defer end()
				result := getPage(callCtx, base, given.GetToolCall().GetArgumentsJson())
				mutex.Lock()
				defer mutex.Unlock()
				delete(leases, given.GetLeaseId())
				if callCtx.Err() == nil { // Else the lease is gone, or the stream.
					frame := &pb.ToolInvocationResult{LeaseId: given.GetLeaseId(), Result: result}
					_ = stream.Send(&pb.ServeToolsRequest{Frame: &pb.ServeToolsRequest_Result{Result: frame}})
				}
			})
		case *pb.ServeToolsResponse_Cancelled:
			mutex.Lock()
			if end := leases[item.Cancelled.GetLeaseId()]; end != nil {
				end()
			}
			mutex.Unlock()
		case *pb.ServeToolsResponse_Error:
			return wasOpen, fmt.Errorf("%s: %s", item.Error.GetReason(), item.Error.GetMessage())
		}
	}
}

// getPage is the tool. What goes wrong is a result that the model sees.
func getPage(ctx context.Context, base *url.URL, argumentsJSON string) *pb.ToolResult {
	var arguments struct{ Path string }
	if err := json.Unmarshal([]byte(argumentsJSON), &arguments); err != nil {
		return result(err.Error(), true)
	}
	page := base.JoinPath(arguments.Path).String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return result(err.Error(), true)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return result(err.Error(), true)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return result(err.Error(), true)
	}
	text := strings.ReplaceAll(strings.ToValidUTF8(string(body), "\uFFFD"), "\x00", "\uFFFD")
	return result(text, response.StatusCode >= http.StatusBadRequest)
}

func result(text string, isError bool) *pb.ToolResult {
	part := &pb.Part{Part: &pb.Part_Text{Text: &pb.Text{Text: text}}}
	return &pb.ToolResult{Content: []*pb.Part{part}, IsError: isError}
}

// env returns an environment variable, or what stands for it where it is not set.
func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
