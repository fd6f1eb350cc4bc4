package restore

import (
	"cmp"
	"slices"
	"sync"
)

// keptBlocks are blocks of which only a part was wanted. The window after often
// wants the rest: a backup fills some blocks at a time with the files of a directory
// after the other, and windows end anywhere in them.
type keptBlocks struct {
	max    int // bytes of plaintext
	mu     sync.Mutex
	bytes  int
	blocks []keptBlock // the one kept last is last
	spares [][]byte    // buffers that are free, the largest last
}

// maxSlack is how many times as long as a kept block its buffer may be.
const maxSlack = 4

// maxSpares is how many buffers wait to be used again: a few of those that a window takes
// are free before as many others are kept.
const maxSpares = 4

type keptBlock struct {
	key   blockKey
	plain []byte
	used  int // bytes that were wanted so far
}

// take returns a block, which is kept no longer.
func (k *keptBlocks) take(key blockKey) (plain []byte, used int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.blocks, func(b keptBlock) bool { return b.key == key })
	if i < 0 {
		return nil, 0, false
	}
	b := k.blocks[i]
	k.blocks = slices.Delete(k.blocks, i, i+1)
	k.bytes -= len(b.plain)
	return b.plain, b.used, true
}

// put keeps a block. It returns the buffer of plain, or another one, if that is free.
func (k *keptBlocks) put(key blockKey, plain []byte, used int) (spare []byte) {
	if cap(plain) > maxSlack*len(plain) { // a small block in the buffer of large ones
		plain, spare = slices.Clone(plain), plain
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blocks = append(k.blocks, keptBlock{key, plain, used})
	k.bytes += len(plain)
	n := 0
	for ; k.bytes > k.max; n++ {
		k.bytes -= len(k.blocks[n].plain)
		k.free(k.blocks[n].plain)
	}
	k.blocks = slices.Delete(k.blocks, 0, n)
	if n := len(k.spares); spare == nil && n > 0 {
		spare, k.spares = k.spares[n-1], k.spares[:n-1]
	}
	return spare
}

// giveBack takes a buffer that is no longer needed.
func (k *keptBlocks) giveBack(buf []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.free(buf)
}

func (k *keptBlocks) free(buf []byte) {
	if cap(buf) == 0 {
		return
	}
	at, _ := slices.BinarySearchFunc(k.spares, buf, func(a, b []byte) int { return cmp.Compare(cap(a), cap(b)) })
	k.spares = slices.Insert(k.spares, at, buf)
	if len(k.spares) > maxSpares {
		k.spares = slices.Delete(k.spares, 0, 1)
	}
}
