// Command converse submits one prompt over a Converse stream and prints the answer while it is written.
//
// It opens the session (and makes it where it is not there), submits, half-closes, and reads until the server, which
// streams until the run has its terminal, ends the stream. Exit code 0 means that the run completed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pb "turnkeeper.dev/go/gen/turnkeeper/v1"
)

func main() {
	address := flag.String("address", env("TURNKEEPER_ADDRESS", "127.0.0.1:7450"), "the server's host and port")
	session := flag.String("session", "go", "the session")
	model := flag.String("model", "scripted/echo", "the model of a session that is made")
	prompt := flag.String("prompt", "Hello from Go.", "the prompt")
	flag.Parse()
	outcome, err := converse(context.Background(), *address, *session, *model, *prompt)
	if err != nil {
		fmt.Fprintln(os.Stderr, "converse:", err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "%s %s\n", outcome.GetStatus(), outcome.GetReason())
	if outcome.GetStatus() != pb.OutcomeStatus_OUTCOME_STATUS_COMPLETED {
		os.Exit(1)
	}
}

// converse submits the prompt and returns how its run ended.
func converse(ctx context.Context, address, session, model, prompt string) (*pb.Outcome, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if token := os.Getenv("TURNKEEPER_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := pb.NewRunServiceClient(connection).Converse(ctx)
	if err != nil {
		return nil, err
	}
	text := &pb.Part{Part: &pb.Part_Text{Text: &pb.Text{Text: prompt}}}
	settings := &pb.SessionSettings{Model: model}
	for _, frame := range []*pb.ConverseRequest{
		{FrameId: "open", Frame: &pb.ConverseRequest_Open{Open: &pb.OpenFrame{SessionId: session, CreateWith: settings}}},
		{FrameId: "prompt", Frame: &pb.ConverseRequest_Submit{Submit: &pb.Submission{Prompt: []*pb.Part{text}}}},
	} {
		if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return follow(stream)
}

// follow prints the run's text and returns its outcome once the stream has ended.
func follow(stream pb.RunService_ConverseClient) (*pb.Outcome, error) {
	var runID string
	var outcome *pb.Outcome
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) && outcome != nil {
			return outcome, nil
		}
		if err != nil {
			return nil, err
		}
		for _, one := range response.GetItems() {
			switch item := one.GetItem().(type) {
			case *pb.StreamItem_Error:
				return nil, fmt.Errorf("%s: %s: %s", item.Error.GetFrameId(), item.Error.GetReason(), item.Error.GetMessage())
			case *pb.StreamItem_Receipt:
				if run := item.Receipt.GetRun(); run != nil {
					runID = run.GetRunId()
				}
			case *pb.StreamItem_Delta:
				if item.Delta.GetRunId() == runID {
					fmt.Print(item.Delta.GetText())
				}
			case *pb.StreamItem_Event:
				if finished := item.Event.GetRunFinished(); finished != nil && item.Event.GetRunId() == runID {
					outcome = finished.GetOutcome()
					fmt.Println()
				}
			}
		}
	}
}

// env returns an environment variable, or what stands for it where it is not set.
func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
