// The same routes in Go: without a pool, with a pool for the slice, and fully pooled.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"
)

func number(r *http.Request) int {
	n, _ := strconv.Atoi(r.PathValue("n"))
	return n
}

// send sets the length, without which net/http sends chunks.
func send(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

func unpooled(w http.ResponseWriter, r *http.Request) {
	n := number(r)
	items := make([]string, 0, n)
	for i := 0; i < n; i++ {
		items = append(items, fmt.Sprintf("item-%d", i))
	}
	body, err := json.Marshal(items)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	send(w, body)
}

var slices = sync.Pool{New: func() any { s := make([]string, 0, 1024); return &s }}

func slice(w http.ResponseWriter, r *http.Request) {
	n := number(r)
	kept := slices.Get().(*[]string)
	items := (*kept)[:0]
	for i := 0; i < n; i++ {
		items = append(items, fmt.Sprintf("item-%d", i))
	}
	body, err := json.Marshal(items)
	clear(items)
	*kept = items
	slices.Put(kept)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	send(w, body)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 16*1024); return &b }}

// pooled writes the JSON itself to a pooled buffer: no string, no list, no reflection.
func pooled(w http.ResponseWriter, r *http.Request) {
	n := number(r)
	kept := buffers.Get().(*[]byte)
	body := append((*kept)[:0], '[')
	for i := 0; i < n; i++ {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `"item-`...)
		body = strconv.AppendInt(body, int64(i), 10)
		body = append(body, '"')
	}
	body = append(body, ']')
	send(w, body)
	*kept = body
	buffers.Put(kept)
}

type line struct {
	Sku string `json:"sku"`
	Qty uint32 `json:"qty"`
}

type order struct {
	Customer string `json:"customer"`
	Lines    []line `json:"lines"`
}

type receiptLine struct {
	Sku   string `json:"sku"`
	Name  string `json:"name"`
	Qty   uint32 `json:"qty"`
	Cents uint64 `json:"cents"`
}

type receipt struct {
	Order    uint64        `json:"order"`
	State    string        `json:"state"`
	Customer string        `json:"customer"`
	Cents    uint64        `json:"cents"`
	Lines    []receiptLine `json:"lines"`
}

type item struct {
	name  string
	cents uint64
	at    int
}

var catalogue = func() map[string]item {
	kinds := []string{"Kettle", "Teapot", "Cup", "Saucer", "Spoon", "Tray", "Tin", "Whisk"}
	skus := []string{"kettle", "teapot", "cup", "saucer", "spoon", "tray", "tin", "whisk"}
	all := make(map[string]item)
	for n := 0; n < 400; n++ {
		sku := fmt.Sprintf("%s-%03d", skus[n%8], n)
		all[sku] = item{fmt.Sprintf("%s No. %d", kinds[n%8], n), uint64(199 + 50*(n%37)), n}
	}
	return all
}()

// scratch is what an order needs; all of it is used again.
type scratch struct {
	body    []byte
	out     []byte
	order   order
	receipt receipt
}

func (s *scratch) Write(p []byte) (int, error) {
	s.out = append(s.out, p...)
	return len(p), nil
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func place(w http.ResponseWriter, r *http.Request) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	refuse := func(status int, why string) { http.Error(w, why, status) }
	s.body = s.body[:0]
	limited := http.MaxBytesReader(w, r.Body, 64*1024)
	for {
		if len(s.body) == cap(s.body) {
			s.body = append(s.body, 0)[:len(s.body)]
		}
		n, err := limited.Read(s.body[len(s.body):cap(s.body)])
		s.body = s.body[:len(s.body)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			refuse(http.StatusRequestEntityTooLarge, err.Error())
			return
		}
	}
	s.order.Customer, s.order.Lines = "", s.order.Lines[:0]
	if err := json.Unmarshal(s.body, &s.order); err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	if len(s.order.Lines) < 1 || len(s.order.Lines) > 100 {
		refuse(http.StatusUnprocessableEntity, "1 to 100 lines")
		return
	}
	s.receipt = receipt{Order: 1, State: "reserved", Customer: s.order.Customer, Lines: s.receipt.Lines[:0]}
	var seen [400]bool
	for _, line := range s.order.Lines {
		item, known := catalogue[line.Sku]
		if !known || seen[item.at] || line.Qty < 1 || line.Qty > 1000 {
			refuse(http.StatusUnprocessableEntity, "line of "+line.Sku)
			return
		}
		seen[item.at] = true
		cents := uint64(line.Qty) * item.cents
		s.receipt.Cents += cents
		s.receipt.Lines = append(s.receipt.Lines, receiptLine{line.Sku, item.name, line.Qty, cents})
	}
	s.out = s.out[:0]
	if err := json.NewEncoder(s).Encode(&s.receipt); err != nil {
		refuse(http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(s.out)))
	w.WriteHeader(http.StatusCreated)
	w.Write(s.out)
}

var blocks = sync.Pool{New: func() any { b := make([]byte, 0, 1<<20); return &b }}

// burst answers with 1 MiB, after all bodies of a burst exist.
func burst(w http.ResponseWriter, r *http.Request) {
	kept := blocks.Get().(*[]byte)
	body := (*kept)[:0]
	for len(body) < 1<<20 {
		body = append(body, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"...)
	}
	time.Sleep(3 * time.Second)
	send(w, body)
	*kept = body
	blocks.Put(kept)
}

func usage(w http.ResponseWriter, r *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(w, "%d %d %d %d", m.Mallocs, m.TotalAlloc, m.NumGC, m.PauseTotalNs)
}

func main() {
	http.HandleFunc("GET /unpooled/{n}", unpooled)
	http.HandleFunc("GET /slice/{n}", slice)
	http.HandleFunc("GET /pooled/{n}", pooled)
	http.HandleFunc("POST /orders", place)
	http.HandleFunc("GET /burst", burst)
	http.HandleFunc("GET /usage", usage)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, nil))
}
