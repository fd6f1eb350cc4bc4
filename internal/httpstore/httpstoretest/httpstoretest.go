// Package httpstoretest holds what tests of stores behind HTTP need: how an emulator
// is installed and started (server.go), proxies that disturb (proxy.go), what stores are judged by (check.go), and
// what all of them have to stand (faults.go).
//
// It knows no protocol of any store.
package httpstoretest
