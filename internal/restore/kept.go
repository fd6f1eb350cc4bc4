package restore

import (
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
}

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

// put keeps a block. It returns a buffer that is no longer needed, or nil.
func (k *keptBlocks) put(key blockKey, plain []byte, used int) (spare []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blocks = append(k.blocks, keptBlock{key, plain, used})
	k.bytes += len(plain)
	n := 0
	for ; k.bytes > k.max; n++ {
		spare = k.blocks[n].plain
		k.bytes -= len(spare)
	}
	k.blocks = slices.Delete(k.blocks, 0, n)
	return spare
}
