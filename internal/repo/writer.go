package repo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// BlockBytes is the size at which a block is closed: enough context for the
	// compressor, and little to read for one small file. Measured on the corpus of
	// bench, what compresses takes 0.3 % less in such blocks than in those of 1 MiB,
	// and 0.2 % more than in those of 2 MiB, of which as many are in memory.
	BlockBytes = 3 << 19
	// ReadBytes is how much a reader of files should ask for at a time; a
	// Batch has room for as much behind a chunk of the largest size.
	ReadBytes = 256 << 10

	// openDataPacks is how many data packs take blocks at a time: a block goes to
	// a random one, so that a pack's size says little about a file.
	openDataPacks = 2
	// indexGroup is how many packs share an index object: a killed run leaves
	// at most so many tables to be read from packs.
	indexGroup = 8
	// maxPackChunks closes a pack of tiny chunks: its table takes at most 58
	// bytes a chunk. A block adds BlockBytes more chunks at the very most, so that
	// such a pack and maxFragmentChunks of others stay below maxTable.
	maxPackChunks = 128 << 10
	// maxFragmentChunks is how many chunks may wait for others to share an index
	// object with: each takes some 100 bytes of memory until then.
	maxFragmentChunks = 128 << 10
	// committers store finished packs, so that sealing goes on during a sync.
	// Options.Transfers may ask for more.
	committers = 2
	// queuedPacks is how many finished packs may wait for a committer: data that
	// does not compress is sealed faster than most disks write, and data that does
	// lets them catch up. The kernel holds them, at most half a gigabyte, and is
	// writing them already. Where packs are stored elsewhere they wait in a spool,
	// so only as many as are sent at a time.
	queuedPacks = 16
	// queuedProtected is the same where packs have repair data, of which each holds
	// some megabytes in memory until it is stored.
	queuedProtected = 4
	// commitWithin bounds the time between the last look at the condemned lists
	// and the snapshot: half the least grace period (docs/format.md §9).
	commitWithin = 30 * time.Minute
	// lastMoment is how much longer than its run the storing of a snapshot may take:
	// the run would not know otherwise whether it is there.
	lastMoment = 10 * time.Second
	// A run is announced after announceAfter, and again at most every announceEvery
	// (docs/format.md §9): until then there is little to lose.
	announceAfter = time.Minute
	announceEvery = 10 * time.Minute
)

// WriteStats counts what a Writer did. Its fields may be read at any time. Data and
// metadata count alike, unless said otherwise.
type WriteStats struct {
	ChunksAdded  atomic.Int64
	ChunksKnown  atomic.Int64 // were stored already
	BytesAdded   atomic.Int64 // of added chunks, before compression
	BytesKnown   atomic.Int64
	DataAdded    atomic.Int64 // the part of BytesAdded that is no metadata
	BytesStored  atomic.Int64 // of committed packs
	PacksStored  atomic.Int64
	IndexObjects atomic.Int64
}

// WriterOptions configure a Writer.
type WriterOptions struct {
	Compression Compression
	// Sealers is the number of goroutines that compress and seal; at least 1.
	Sealers int
	// Readers is the number of batches used at a time: it bounds memory.
	Readers int
	// Host is what the run announces itself as to pruners; "": this machine's name.
	Host string
}

// A Writer stores chunks. One run uses one Writer: batches are filled by its
// readers, blocks compressed and sealed by its sealers, packs committed by its
// committers; Commit ends it. Memory is bounded: Readers + 2 × Sealers + 1 blocks.
type Writer struct {
	Stats WriteStats

	r      *Repository
	o      WriterOptions
	sealer sealer
	ctx    context.Context
	cancel context.CancelCauseFunc

	blocks  chan *block // to the sealers
	free    chan *block // empty, for batches
	made    atomic.Int64
	sealers sync.WaitGroup

	packMu   sync.Mutex
	open     map[Kind][]*openPack
	finished chan *openPack
	commits  sync.WaitGroup

	claimMu sync.Mutex
	claims  map[ID]struct{} // chunks of this run that the index does not have yet

	fragmentMu sync.Mutex
	fragment   []packTable
	stored     []ID     // packs that the index has
	run        packList // that announces them; its ID is zero: not yet
	announceAt time.Time

	metaMu sync.Mutex
	meta   *Batch

	// gate is held for reading by whoever is not one of the Writer's own
	// goroutines while it hands on a block or writes to a pack: closed is set,
	// and the goroutines end, behind the last of them.
	gate   sync.RWMutex
	closed bool
}

var errClosed = errors.New("the writer has ended")

// A block is plaintext on its way into a pack.
type block struct {
	kind   Kind
	buf    []byte
	n      int // bytes of chunks in buf
	chunks []chunkRef
	trend  *trend // of the batch
}

// NewWriter starts a writer. The repository's index must be loaded. The caller
// ends it with Commit or Abort.
func (r *Repository) NewWriter(ctx context.Context, o WriterOptions) (*Writer, error) {
	o.Sealers = max(o.Sealers, 1)
	o.Readers = max(o.Readers, 1)
	if o.Host == "" {
		o.Host, _ = os.Hostname() // without a name it is nobody's
	}
	w := &Writer{
		r: r, o: o,
		blocks:   make(chan *block, o.Sealers),
		free:     make(chan *block, o.Readers+2*o.Sealers+1),
		open:     make(map[Kind][]*openPack),
		finished: make(chan *openPack, r.queue()),
		claims:   make(map[ID]struct{}),
	}
	var err error
	if w.sealer, err = r.newSealer(ctx); err != nil {
		return nil, err
	}
	w.announceAt = time.Now().Add(announceAfter)
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	compressors := make([]*compressor, o.Sealers)
	for i := range compressors {
		if compressors[i], err = newCompressor(o.Compression); err != nil {
			return nil, err
		}
	}
	r.index.mu.Lock()
	w.fragment = append(w.fragment, r.index.adopted...)
	r.index.mu.Unlock()
	for _, c := range compressors {
		w.sealers.Add(1)
		go w.seal(c)
	}
	for range max(committers, r.transfers) {
		w.commits.Add(1)
		go w.commitPacks()
	}
	w.meta = w.Batch(Metadata)
	return w, nil
}

// queue is how many finished packs may wait.
func (r *Repository) queue() int {
	if r.transfers > 0 {
		return r.transfers
	}
	if r.parity > 0 {
		return queuedProtected
	}
	return queuedPacks
}

// fail ends the run with its first error.
func (w *Writer) fail(err error) {
	if err != nil {
		w.cancel(err)
	}
}

// err returns why the run ended, or nil.
func (w *Writer) err() error {
	if w.ctx.Err() == nil {
		return nil
	}
	return context.Cause(w.ctx)
}

// AfterFailure calls f, in a goroutine of its own, with the error of the Writer, which what
// is stored in the background may have at any time: others hear of it at their next call
// only. Nothing is called once stop has returned true.
func (w *Writer) AfterFailure(f func(error)) (stop func() bool) {
	return context.AfterFunc(w.ctx, func() { f(context.Cause(w.ctx)) })
}

// A Batch gathers chunks into blocks for one goroutine. Chunks are read straight
// into its block: there is no copy between a file and the compressor.
type Batch struct {
	w     *Writer
	kind  Kind
	b     *block
	trend trend
}

// Batch returns a new batch.
func (w *Writer) Batch(kind Kind) *Batch { return &Batch{w: w, kind: kind} }

// Tail returns the free space behind the last chunk: at least the largest chunk
// and ReadBytes. It blocks while all blocks are in use. What is in it stays until
// Add.
func (b *Batch) Tail() ([]byte, error) {
	if b.b == nil {
		if err := b.next(); err != nil {
			return nil, err
		}
	}
	return b.b.buf[b.b.n:], nil
}

func (b *Batch) next() error {
	w := b.w
	select {
	case b.b = <-w.free:
	default:
		if w.made.Add(1) <= int64(cap(w.free)) {
			b.b = &block{buf: make([]byte, BlockBytes+w.r.params.Max+ReadBytes)}
			break
		}
		w.made.Add(-1)
		select {
		case b.b = <-w.free:
		case <-w.ctx.Done():
			return w.err()
		}
	}
	b.b.kind, b.b.n, b.b.chunks, b.b.trend = b.kind, 0, b.b.chunks[:0], &b.trend
	return nil
}

// Add makes the first n bytes of Tail a chunk, whose SHA-256 is hash, unless the
// repository has it; added says which. The extra bytes behind them, the beginning
// of the next chunk, are at the front of the next Tail.
func (b *Batch) Add(n, extra int, hash Hash) (added bool, err error) {
	w := b.w
	tail := b.b.buf[b.b.n:]
	if n < 1 || extra < 0 || n > len(tail)-extra {
		return false, fmt.Errorf("a chunk of %d bytes and %d behind it are not in the %d of Tail", n, extra, len(tail))
	}
	id := w.r.ChunkID(hash)
	if !w.claim(id, n) {
		copy(tail, tail[n:n+extra])
		return false, nil
	}
	if b.kind == Data {
		w.Stats.DataAdded.Add(int64(n))
	}
	b.b.chunks = append(b.b.chunks, chunkRef{id, uint32(n)})
	b.b.n += n
	if b.b.n < BlockBytes {
		return true, nil
	}
	full := b.b
	if extra == 0 {
		b.b = nil
		return true, w.ship(full)
	}
	// The next block takes the beginning of the next chunk along.
	if err := b.next(); err != nil {
		return true, err
	}
	copy(b.b.buf, full.buf[full.n:full.n+extra])
	return true, w.ship(full)
}

// Copy adds a chunk that is somewhere in memory, unless the repository has it.
func (b *Batch) Copy(data []byte, hash Hash) error { return b.w.addCopy(b, data, hash) }

// Flush sends an unfinished block on. The batch may be used again.
func (b *Batch) Flush() error {
	if b.b == nil {
		return nil
	}
	full := b.b
	b.b = nil
	if full.n == 0 {
		b.w.recycle(full)
		return nil
	}
	return b.w.ship(full)
}

func (w *Writer) ship(b *block) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer w.gate.RUnlock()
	select {
	case w.blocks <- b:
		return nil
	case <-w.ctx.Done():
		return w.err()
	}
}

// enter locks the gate for reading, or returns why nothing more is taken.
func (w *Writer) enter() error {
	w.gate.RLock()
	if !w.closed {
		return nil
	}
	w.gate.RUnlock()
	if err := w.err(); err != nil {
		return err
	}
	return errClosed
}

// recycle returns a block to the batches; one of an unusual size is dropped.
func (w *Writer) recycle(b *block) {
	if len(b.buf) == BlockBytes+w.r.params.Max+ReadBytes {
		w.free <- b // has room for every block that was made
	}
}

// claim says whether a chunk has to be stored, and if so takes that on.
func (w *Writer) claim(id ID, size int) bool {
	known := w.r.index.find(&id, true, nil)
	if !known {
		w.claimMu.Lock()
		if _, known = w.claims[id]; !known {
			w.claims[id] = struct{}{}
		}
		w.claimMu.Unlock()
	}
	if known {
		w.Stats.ChunksKnown.Add(1)
		w.Stats.BytesKnown.Add(int64(size))
		return false
	}
	w.Stats.ChunksAdded.Add(1)
	w.Stats.BytesAdded.Add(int64(size))
	return true
}

// claimAll takes on storing some chunks, unless one of them has not to be stored.
func (w *Writer) claimAll(chunks []chunkRef) bool {
	for i := range chunks {
		if w.r.index.find(&chunks[i].id, true, nil) {
			return false
		}
	}
	w.claimMu.Lock()
	defer w.claimMu.Unlock()
	bytes := int64(0)
	for i := range chunks {
		if _, ok := w.claims[chunks[i].id]; ok {
			return false
		}
		bytes += int64(chunks[i].size)
	}
	for i := range chunks {
		w.claims[chunks[i].id] = struct{}{}
	}
	w.Stats.ChunksAdded.Add(int64(len(chunks)))
	w.Stats.BytesAdded.Add(bytes)
	return true
}

// Has says whether a chunk is stored or on its way, and if so relies on it: it
// need not be read again.
func (w *Writer) Has(hash Hash) bool {
	id := w.r.ChunkID(hash)
	if w.r.index.find(&id, true, nil) {
		return true
	}
	w.claimMu.Lock()
	defer w.claimMu.Unlock()
	_, ok := w.claims[id]
	return ok
}

// AddMetadata stores one chunk of metadata; data is copied. Safe for concurrent
// use.
func (w *Writer) AddMetadata(data []byte) (Hash, error) {
	if len(data) == 0 || len(data) > maxBlockSize/2 {
		return Hash{}, fmt.Errorf("a record of %d bytes is out of bounds", len(data))
	}
	hash := Hash(sha256.Sum256(data))
	w.metaMu.Lock()
	defer w.metaMu.Unlock()
	return hash, w.addCopy(w.meta, data, hash)
}

// seal compresses and seals blocks until there are no more.
func (w *Writer) seal(c *compressor) {
	defer w.sealers.Done()
	var out []byte
	for b := range w.blocks {
		if w.err() != nil {
			continue // drain
		}
		var err error
		out, err = w.sealBlock(c, b, out[:0])
		w.recycle(b)
		w.fail(err)
	}
}

func (w *Writer) sealBlock(c *compressor, b *block, out []byte) ([]byte, error) {
	plain := b.buf[:b.n]
	out, compressed := c.compress(out, plain, b.trend)
	if compressed {
		plain = out // sealed in its place
	}
	ref := blockRef{
		stored: uint32(len(plain) + tagBytes), raw: uint32(b.n), compressed: compressed,
		chunks: append([]chunkRef(nil), b.chunks...),
	}
	p, number, err := w.reserve(b.kind, &ref)
	if err != nil {
		return out, err
	}
	nonce := p.nonce(number)
	ref.nonce = nonce
	out = w.sealer.data.Seal(out[:0], nonce, plain, nil)
	return out, w.store(p, out, ref)
}

// store ends a reservation with its block.
func (w *Writer) store(p *openPack, sealed []byte, ref blockRef) error {
	at, err := p.append(sealed, ref)
	if err == nil && p.table.kind == Metadata {
		w.r.kept.put(keptBlock(p.table.id, at), sealed) // the next run reads it
	}
	return errors.Join(err, w.release(p))
}

// reserve picks a pack for a block.
func (w *Writer) reserve(kind Kind, ref *blockRef) (p *openPack, number uint32, err error) {
	w.packMu.Lock()
	defer w.packMu.Unlock()
	want := 1
	if kind == Data {
		want = openDataPacks
	}
	open := w.open[kind]
	pick := 0
	if want > 1 {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(want)))
		if err != nil {
			return nil, 0, err
		}
		pick = int(n.Int64())
	}
	if pick >= len(open) {
		p, err := newPack(w.ctx, w.r.backend, kind, w.sealer.key)
		if err != nil {
			return nil, 0, err
		}
		open = append(open, p)
		w.open[kind] = open
		pick = len(open) - 1
	}
	p = open[pick]
	number = p.reserved
	p.reserved++
	p.pending++
	p.planned += int64(ref.stored)
	p.chunks += len(ref.chunks)
	if p.planned >= packTarget(kind) || p.chunks >= maxPackChunks {
		p.closing = true
		w.open[kind] = append(open[:pick:pick], open[pick+1:]...)
	}
	return p, number, nil
}

// release ends a reservation, and sends a full pack on to be committed.
func (w *Writer) release(p *openPack) error {
	w.packMu.Lock()
	p.pending--
	done := p.closing && p.pending == 0
	w.packMu.Unlock()
	if !done {
		return nil
	}
	select {
	case w.finished <- p:
		return nil
	case <-w.ctx.Done():
		p.w.Abort()
		return w.err()
	}
}

func (w *Writer) commitPacks() {
	defer w.commits.Done()
	enc, err := newEncoder(zstd.SpeedDefault)
	w.fail(err)
	for p := range w.finished {
		if w.err() != nil {
			p.w.Abort()
			continue
		}
		t, err := p.finish(w.r.keys, enc)
		if err != nil {
			w.fail(err)
			continue
		}
		w.Stats.PacksStored.Add(1)
		w.Stats.BytesStored.Add(t.size)
		w.fragmentMu.Lock()
		w.fragment = append(w.fragment, *t)
		chunks := 0
		for i := range w.fragment {
			for j := range w.fragment[i].blocks {
				chunks += len(w.fragment[i].blocks[j].chunks)
			}
		}
		if len(w.fragment) >= indexGroup || chunks >= maxFragmentChunks {
			w.fail(w.publish(w.ctx))
		}
		w.fragmentMu.Unlock()
	}
}

// publish stores the tables gathered so far in index objects, and makes their
// chunks known. fragmentMu is held.
func (w *Writer) publish(ctx context.Context) error {
	for len(w.fragment) > 0 {
		n := min(len(w.fragment), indexGroup)
		packs := w.fragment[:n:n]
		w.fragment = w.fragment[n:]
		if err := w.publishGroup(ctx, packs); err != nil {
			return err
		}
		for i := range packs {
			w.stored = append(w.stored, packs[i].id)
		}
	}
	if time.Now().After(w.announceAt) {
		w.announce(ctx)
	}
	return nil
}

// announce tells pruners which packs this run has stored, so that they leave them
// alone. Where that fails the run may have to be repeated, and nothing is lost.
// fragmentMu is held.
func (w *Writer) announce(ctx context.Context) {
	w.announceAt = time.Now().Add(announceEvery)
	old := w.run.id
	next := packList{Time: time.Now().Round(0), Host: w.o.Host, Packs: w.stored}
	if err := w.r.createList(ctx, kindRun, &next); err != nil {
		return
	}
	w.run = next
	if old != (ID{}) {
		w.r.remove(ctx, kindRun, old)
	}
}

func (w *Writer) publishGroup(ctx context.Context, packs []packTable) error {
	body := squeeze(w.r.enc, appendIndex(nil, &indexObject{packs: packs}))
	id, n, err := w.r.createObject(ctx, kindIndex, body)
	if err != nil {
		return fmt.Errorf("store index: %w", err)
	}
	w.Stats.IndexObjects.Add(1)
	w.Stats.BytesStored.Add(n)
	if err := w.r.index.add(packs, id); err != nil {
		return err
	}
	w.claimMu.Lock()
	defer w.claimMu.Unlock()
	for i := range packs {
		for j := range packs[i].blocks {
			for _, c := range packs[i].blocks[j].chunks {
				delete(w.claims, c.id)
			}
		}
	}
	return nil
}

// Flush makes everything added so far durable, and published in the index. All
// batches must have been flushed; the Writer takes no more chunks.
func (w *Writer) Flush() error {
	w.metaMu.Lock()
	err := w.meta.Flush()
	w.metaMu.Unlock()
	if !errors.Is(err, errClosed) {
		w.fail(err)
	}
	if !w.stop() {
		return w.err()
	}
	if err := w.err(); err != nil {
		return err
	}
	w.fragmentMu.Lock()
	defer w.fragmentMu.Unlock()
	err = w.publish(w.ctx)
	if err == nil {
		err = w.checkClaims()
	}
	w.fail(err)
	return err
}

// checkClaims returns an error if a chunk that this run has taken on is in no
// pack. Others may have left it out since, so there must be no snapshot.
func (w *Writer) checkClaims() error {
	w.claimMu.Lock()
	defer w.claimMu.Unlock()
	if len(w.claims) > 0 {
		return fmt.Errorf("%d chunks were added and not stored: a batch was not flushed", len(w.claims))
	}
	return nil
}

// stop ends all goroutines; unless the run has failed, unfinished packs are
// committed. It returns false if they had ended before.
func (w *Writer) stop() bool {
	w.gate.Lock()
	closed := w.closed
	w.closed = true
	w.gate.Unlock()
	if closed {
		return false
	}
	close(w.blocks)
	w.sealers.Wait()
	for _, packs := range w.open {
		for _, p := range packs {
			w.finished <- p
		}
	}
	w.open = nil
	close(w.finished)
	w.commits.Wait()
	return true
}

// Commit flushes, checks that nothing that this run relied on was condemned
// meanwhile, and stores the snapshot: the commit point. On any error there is no
// such snapshot, but for an error of the store's after it took effect. The end of the
// run's context leaves lastMoment to a snapshot that is on its way.
func (w *Writer) Commit(id ID, snapshot []byte) error {
	defer w.cancel(context.Canceled)
	if err := w.Flush(); err != nil {
		return err
	}
	// Not the monotonic clock: that of Linux stands still in a suspended machine.
	start := time.Now().Round(0)
	ctx, cancel := context.WithTimeout(w.ctx, commitWithin)
	defer cancel()
	if err := w.r.checkRelied(ctx); err != nil {
		return err
	}
	if d := time.Now().Round(0).Sub(start); d < 0 || d > commitWithin {
		return fmt.Errorf("the last check of the store took too long: %w", ErrRaced)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	last, done := finishing(w.ctx, start.Add(commitWithin))
	defer done()
	n, err := w.r.putSealed(last, kindSnapshot, id, w.r.sealSnapshot(w.sealer, id, squeeze(w.r.enc, snapshot)))
	if err != nil {
		return fmt.Errorf("store snapshot: %w", err)
	}
	w.Stats.BytesStored.Add(n)
	if w.run.id != (ID{}) {
		w.r.remove(ctx, kindRun, w.run.id) // else a pruner does, later
	}
	return nil
}

// finishing is a context for what is better finished once it is begun: it ends at the
// deadline, or lastMoment after ctx has ended.
func finishing(ctx context.Context, deadline time.Time) (_ context.Context, done func()) {
	last, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(lastMoment):
			cancel()
		case <-last.Done():
		}
	})
	return last, func() { stop(); cancel() }
}

// Abort ends the run without a snapshot. Packs that are complete stay, and so
// does what they hold: the next run finds it. Calls that other goroutines are in
// return soon, with an error. After Commit it does nothing.
func (w *Writer) Abort() {
	w.cancel(context.Canceled)
	w.stop()
}

// ChunkID returns the name of a chunk in this repository.
func (r *Repository) ChunkID(hash Hash) ID { return ID(r.keys.ChunkID(hash)) }

// checkRelied returns ErrRaced if a pack that this process has stored, or that held
// a chunk which it did not store again, is condemned or gone now.
func (r *Repository) checkRelied(ctx context.Context) error {
	relied := r.index.reliedUpon()
	if len(relied) == 0 {
		return nil
	}
	lists, _, err := r.lists(ctx, kindCondemned)
	if err != nil {
		return err
	}
	condemned := listedPacks(lists)
	there := make(map[ID]int64, len(relied))
	if err := r.list(ctx, "packs", nil, func(id ID, size int64) { there[id] = size }); err != nil {
		return err
	}
	for id, size := range relied {
		_, gone := condemned[id]
		if !gone && there[id] != size {
			// A listing may miss what was stored moments ago.
			tail, err := r.get(ctx, packName(id), size-1, 2)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("look for pack %s: %w", id.Short(), err)
			}
			gone = len(tail) != 1
		}
		if gone {
			return fmt.Errorf("pack %s: %w", id.Short(), ErrRaced)
		}
	}
	return nil
}
