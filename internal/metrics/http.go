package metrics

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Bounds of the server.
const (
	headerTime     = 5 * time.Second
	requestTime    = 10 * time.Second
	answerTime     = 30 * time.Second
	idleTime       = 2 * time.Minute // longer than the pause between two scrapes
	maxHeaderBytes = 16 << 10
)

// NewServer makes a server of GET /metrics and nothing else. look is called for each
// request, one at a time; what it fails with is given to warn, and not to whoever asked.
func NewServer(look func() (*State, error), warn func(error)) *http.Server {
	var mu sync.Mutex // the record may be 16 MiB: it is read for one request at a time
	answer := func() ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		s, err := look()
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err = s.Write(&b)
		return b.Bytes(), err
	}
	handle := func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		switch {
		case r.URL.Path != "/metrics":
			http.Error(w, "there is only /metrics", http.StatusNotFound)
			return
		case r.Method != http.MethodGet:
			h.Set("Allow", http.MethodGet)
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		text, err := answer()
		if err != nil {
			warn(err)
			http.Error(w, "the record of runs cannot be read; the log of the daemon says more", http.StatusInternalServerError)
			return
		}
		h.Set("Content-Type", ContentType)
		h.Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text) // whoever asked has gone
	}
	return &http.Server{
		Handler: http.HandlerFunc(handle), ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeaderBytes,
	}
}
