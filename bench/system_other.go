//go:build !linux

package main

// flush does nothing: the benchmark's numbers are made on Linux, elsewhere
// commands may pay for the dirty pages of those before.
func flush() {}

// fetchMemory does nothing: it is for virtual machines that run Linux.
func fetchMemory(int64) {}
