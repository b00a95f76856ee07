package compat_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

type (
	word      = wrapperspb.StringValue
	procedure = func(context.Context, *connect.Request[word]) (*connect.Response[word], error)
)

// A handler of Connect is an http.Handler, and the context of a procedure that of its request.
func Example_connect() {
	reg := tether.New(tether.Config{})
	var greet procedure = func(ctx context.Context, r *connect.Request[word]) (*connect.Response[word], error) {
		_, err := tetherhttp.After(ctx, "audit log", func(ctx context.Context) error {
			fmt.Println("task:", r.Msg.Value, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or stopping
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("busy"))
		}
		return connect.NewResponse(&word{Value: "hello"}), nil
	}
	mux := http.NewServeMux()
	mux.Handle("/greeter/Greet", connect.NewUnaryHandler("/greeter/Greet", greet))
	srv := &http.Server{Handler: mux}
	tetherhttp.Attach(srv, reg)

	l := listenLocal()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{}}
	res, err := connect.NewClient[word, word](client, "http://"+l.Addr().String()+"/greeter/Greet").
		CallUnary(context.Background(), connect.NewRequest(&word{Value: "world"}))
	if err != nil {
		panic(err)
	}
	client.CloseIdleConnections()
	if err := errors.Join(srv.Shutdown(context.Background()), reg.Shutdown(context.Background())); err != nil {
		panic(err)
	}
	<-served
	fmt.Println("answered:", res.Msg.Value)
	// Output:
	// task: world sent
	// answered: hello
}

// A task starts after the response of each of Connect's protocols, and after the last message
// of a stream.
func TestConnect(t *testing.T) {
	for name, test := range map[string]struct {
		options  []connect.ClientOption
		http2    bool
		delivery tetherhttp.Delivery
	}{
		"Connect, HTTP/1":  {nil, false, tetherhttp.DeliverySent},
		"Connect, HTTP/2":  {nil, true, tetherhttp.DeliveryFrame},
		"gRPC":             {[]connect.ClientOption{connect.WithGRPC()}, true, tetherhttp.DeliveryFrame},
		"gRPC-Web, HTTP/1": {[]connect.ClientOption{connect.WithGRPCWeb()}, false, tetherhttp.DeliverySent},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, variant{}, func(s *site) {
				mux := http.NewServeMux()
				mux.Handle("/s/Unary", connect.NewUnaryHandler("/s/Unary", procedure(func(ctx context.Context, r *connect.Request[word]) (*connect.Response[word], error) {
					s.after(ctx)
					if r.Msg.Value == "fail" {
						return nil, connect.NewError(connect.CodeNotFound, errTest)
					}
					return connect.NewResponse(r.Msg), nil
				})))
				mux.Handle("/s/Stream", connect.NewServerStreamHandler("/s/Stream", func(ctx context.Context, r *connect.Request[word], out *connect.ServerStream[word]) error {
					s.after(ctx)
					return errors.Join(out.Send(r.Msg), out.Send(r.Msg))
				}))
				srv := &http.Server{Handler: mux}
				s.attach(srv)
				s.serve(srv)
			})
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP1(!test.http2)
			transport.Protocols.SetUnencryptedHTTP2(test.http2)
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: hang}
			url := "http://" + s.listener.Addr().String()
			unary := connect.NewClient[word, word](client, url+"/s/Unary", test.options...)
			for _, text := range []string{"hello", "fail"} {
				s.round(func() string {
					res, err := unary.CallUnary(t.Context(), connect.NewRequest(&word{Value: text}))
					if text == "fail" {
						assert.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
						return ""
					}
					require.NoError(t, err)
					assert.Equal(t, text, res.Msg.Value)
					return ""
				})
			}
			s.round(func() string {
				stream, err := connect.NewClient[word, word](client, url+"/s/Stream", test.options...).
					CallServerStream(t.Context(), connect.NewRequest(&word{Value: "hello"}))
				require.NoError(t, err)
				n := 0
				for stream.Receive() {
					n++
				}
				assert.NoError(t, stream.Err())
				assert.NoError(t, stream.Close())
				assert.Equal(t, 2, n)
				return ""
			})
			assert.Equal(t, []tetherhttp.Delivery{test.delivery, test.delivery, test.delivery}, s.ran)
			assert.Empty(t, s.dropped)
		})
	}
}
