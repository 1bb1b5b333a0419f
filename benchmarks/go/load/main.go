// Command load sends unary calls over gRPC or HTTP, checks every answer, and prints what it saw as one line of JSON.
//
// The calls come from a file: each line is a request and what its answer must contain, both in base64, separated by a
// tab. The order is shuffled, so that names vary. With -once the run ends when every line has been sent (creates);
// otherwise lines are used again until the time is over. What ends in the measured time counts, whenever it began: else a
// slow server would lose the calls that are under way at both ends.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

type call struct{ request, want []byte }

type caller func(ctx context.Context, request []byte) ([]byte, error)

// raw passes bytes through: building messages is not what is measured.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error)      { return *(v.(*[]byte)), nil }
func (raw) Unmarshal(data []byte, v interface{}) error { *(v.(*[]byte)) = data; return nil }
func (raw) Name() string                               { return "proto" }

type result struct {
	Calls    int     `json:"calls"`
	Sent     int64   `json:"sent"` // those of the warm-up too
	CPU      float64 `json:"cpu_seconds"`
	Errors   int     `json:"errors"`
	Wrong    int     `json:"wrong"`
	Bytes    int     `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	PerS     float64 `json:"per_second"`
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	LastFail string  `json:"last_failure,omitempty"`
}

func main() {
	target := flag.String("target", "", "host:port of a gRPC server, or http://host:port")
	method := flag.String("method", "", "full gRPC method, or an HTTP verb")
	file := flag.String("calls", "", "file with the calls")
	streams := flag.Int("streams", 64, "calls under way at once")
	connections := flag.Int("connections", 8, "connections they share")
	seconds := flag.Float64("seconds", 4, "measured time")
	warmup := flag.Float64("warmup", 1, "time before it that does not count")
	once := flag.Bool("once", false, "send every call once at most")
	ids := flag.Bool("ids", false, "give every gRPC call an x-request-id of its own")
	flag.Parse()

	calls := read(*file)
	callers := dial(*target, *method, *ids, min(*connections, *streams))
	var next, sent int64 = -1, 0
	cpu := cpuSeconds()
	begin := time.Now().Add(time.Duration(*warmup * float64(time.Second)))
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	outcomes := make([]outcome, *streams)
	var group sync.WaitGroup
	for stream := range outcomes {
		group.Add(1)
		go func(seen *outcome, send caller) {
			defer group.Done()
			for {
				number := int(atomic.AddInt64(&next, 1))
				started := time.Now()
				if started.After(end) || (*once && number >= len(calls)) {
					return
				}
				one := calls[number%len(calls)]
				atomic.AddInt64(&sent, 1)
				answer, err := send(context.Background(), one.request)
				took := time.Since(started)
				if over := started.Add(took); over.Before(begin) || over.After(end) {
					continue
				}
				seen.add(one, answer, err, took)
			}
		}(&outcomes[stream], callers[stream%len(callers)])
	}
	group.Wait()
	over := time.Now()
	if over.After(end) {
		over = end
	}
	found := merge(outcomes, over.Sub(begin).Seconds())
	found.Sent, found.CPU = sent, cpuSeconds()-cpu
	json.NewEncoder(os.Stdout).Encode(found)
}

// cpuSeconds is the processor time of this program so far.
func cpuSeconds() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		fail(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

type outcome struct {
	took                 []float64
	errors, wrong, bytes int
	lastFail             string
}

func (o *outcome) add(one call, answer []byte, err error, took time.Duration) {
	if err != nil {
		o.errors++
		o.lastFail = err.Error()
		return
	}
	if !bytes.Contains(answer, one.want) {
		o.wrong++
		o.lastFail = fmt.Sprintf("an answer of %d bytes lacks %q", len(answer), one.want)
		return
	}
	o.bytes += len(answer)
	o.took = append(o.took, float64(took.Microseconds())/1000)
}

func merge(outcomes []outcome, seconds float64) result {
	var all []float64
	total := result{Seconds: seconds}
	for _, one := range outcomes {
		all = append(all, one.took...)
		total.Errors += one.errors
		total.Wrong += one.wrong
		total.Bytes += one.bytes
		if one.lastFail != "" {
			total.LastFail = one.lastFail
		}
	}
	sort.Float64s(all)
	total.Calls = len(all)
	total.PerS = float64(len(all)) / seconds
	if len(all) > 0 {
		at := func(share float64) float64 { return all[int(share*float64(len(all)-1))] }
		total.P50, total.P95, total.P99, total.Max = at(0.5), at(0.95), at(0.99), at(1)
	}
	return total
}

func dial(target, method string, ids bool, connections int) []caller {
	callers := make([]caller, connections)
	for i := range callers {
		if strings.HasPrefix(target, "http://") {
			callers[i] = overHTTP(target, method)
		} else {
			callers[i] = overGRPC(target, method, ids)
		}
	}
	return callers
}

func overGRPC(target, method string, ids bool) caller {
	connection, err := grpc.Dial(target, grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		fail(err)
	}
	return func(ctx context.Context, request []byte) ([]byte, error) {
		var answer []byte
		if ids {
			id := fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
			ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", id)
		}
		err := connection.Invoke(ctx, method, &request, &answer)
		return answer, err
	}
}

// overHTTP sends a request that is a path, or a path, a space and a body.
func overHTTP(target, verb string) caller {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}}
	return func(ctx context.Context, request []byte) ([]byte, error) {
		path, body, _ := strings.Cut(string(request), " ")
		message, err := http.NewRequestWithContext(ctx, verb, target+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		message.Header.Set("content-type", "application/json")
		response, err := client.Do(message)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", response.StatusCode, answer)
		}
		return answer, err
	}
}

func read(name string) []call {
	file, err := os.Open(name)
	if err != nil {
		fail(err)
	}
	defer file.Close()
	var calls []call
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		request, want, _ := strings.Cut(lines.Text(), "\t")
		calls = append(calls, call{decoded(request), decoded(want)})
	}
	if len(calls) == 0 {
		fail(fmt.Errorf("%s holds no calls", name))
	}
	rand.Seed(time.Now().UnixNano())
	rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	return calls
}

func decoded(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		fail(err)
	}
	return data
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
