package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// What arrives is what was sent, not before its time, and does not wait for what was
// sent before it.
func TestLine(t *testing.T) {
	const rtt = 60 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // echoes
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	x, err := newLine(l.Addr().String(), rtt)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()

	start := time.Now()
	c, err := net.Dial("tcp", x.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	question := make([]byte, 1)
	for i := range 3 {
		c.Write(question)
		if _, err := io.ReadFull(c, question); err != nil {
			t.Fatal(err)
		}
		if least := time.Duration(i+2) * rtt; time.Since(start) < least { // one for the connection
			t.Fatalf("answer %d after %s, before %s", i, time.Since(start), least)
		}
	}

	// More than any window of TCP.
	sent := make([]byte, 64<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(sent)
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d arrived, or others: %v", len(got), len(sent), err)
	}
	if x.accepted.Load() != 1 || x.bytes.Load() != 2*int64(len(sent)+3) {
		t.Errorf("%d connections, %d bytes", x.accepted.Load(), x.bytes.Load())
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.all); got != c.want {
			t.Errorf("median of %v is %v, not %v", c.all, got, c.want)
		}
	}
}
