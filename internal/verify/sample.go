package verify

import (
	"encoding/binary"
	"math"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// A pack in the listing of the repository.
type pack struct {
	id   repo.ID
	size int64
}

// choose returns the packs of a sample, at least one if there is one.
//
// The IDs of packs are random: their first 64 bits are points on a circle, evenly
// spread. A sample is an arc of the circle, and the next seed's is the arc behind it.
// So a pack's turn depends on nothing but its ID, whatever is added or pruned
// meanwhile.
func choose(packs []pack, share float64, seed uint64) []pack {
	if share >= 1 {
		return packs
	}
	// A little more than the share: successive arcs overlap rather than leave out
	// what rounding cut off. 1<<20 of 1<<64 chooses nothing by itself.
	arc := math.MaxUint64 - uint64(1<<20)
	if length := share * (1 << 64); length < float64(arc) {
		arc = uint64(length)
	}
	arc += 1 << 20
	start := arc * seed // modulo the circle
	var chosen []pack
	nearest, distance := -1, uint64(math.MaxUint64)
	for i, p := range packs {
		d := binary.BigEndian.Uint64(p.id[:]) - start
		if d < arc {
			chosen = append(chosen, p)
		}
		if nearest < 0 || d < distance {
			nearest, distance = i, d
		}
	}
	if len(chosen) == 0 && nearest >= 0 {
		chosen = packs[nearest : nearest+1]
	}
	return chosen
}
