// Package repo is the engine: it keeps chunks of bytes, deduplicated, compressed
// and sealed, in a [storage.Backend], finds them again, and keeps the bytes of
// snapshots. docs/format.md is the format; this package and it agree.
//
// It knows nothing of files, configuration, flags or users. It never changes an
// object, deletes only key slots on request, and takes no lock: everything is safe
// with other processes and hosts writing to the same repository at the same time.
//
// Invariants:
//   - an index object is stored only when its packs are durable, a snapshot only
//     when everything it needs is durable and indexed;
//   - a chunk counts as stored only if its pack is listed with the right size and
//     is not condemned;
//   - memory does not grow with the repository, but for three bits a pack and 16
//     bytes an index object, if there is a cache on a system that maps files.
//
// repo.go: identifiers, places, errors. open.go: creating, opening, keys.
// format.go: tables and index objects as bytes. object.go: sealed objects.
// index.go, segment.go, cache.go: finding chunks. writer.go, pack.go: storing
// them. reader.go: reading them. copy.go: between repositories. check.go:
// verifying.
package repo
