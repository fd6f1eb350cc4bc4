package restore

import (
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// TestRunsEnd: runs are large at first and small at the end, and together all blocks, in
// order.
func TestRunsEnd(t *testing.T) {
	for _, tt := range []struct{ packs, each, stored, least int }{
		{1, 1, 1000, 16}, {1, 16, 1000, 16}, {1, 17, 1000, 16}, {1, 300, 1000, 16}, {40, 30, 1 << 20, 16}, {3, 100, 300 << 10, 6}, {300, 1, 1000, 16},
	} {
		p := plan{}
		for rank := range tt.packs {
			for i := range tt.each {
				p.blocks = append(p.blocks, blockPlan{rank: rank, block: repo.Block{Offset: uint32(i), Stored: uint32(tt.stored)}})
			}
		}
		runs := p.runs(tt.least)
		left := len(p.blocks)
		for i, run := range runs {
			size := 0
			for j := range run {
				if run[j].block != p.blocks[len(p.blocks)-left+j].block || run[j].rank != run[0].rank {
					t.Fatalf("%+v: run %d is not what comes next of one pack", tt, i)
				}
				size += int(run[j].block.Stored)
			}
			if len(run) == 0 || len(run) > max(left/tt.least, 1) || size > runBytes && len(run) > 1 {
				t.Errorf("%+v: run %d has %d blocks of %d that are left, %d bytes", tt, i, len(run), left, size)
			}
			left -= len(run)
		}
		if left != 0 {
			t.Errorf("%+v: %d blocks are in no run", tt, left)
		}
		// Each request costs: the many small ones at the end are a few for each worker.
		if most := tt.packs + len(p.blocks)*tt.stored/(runBytes/2) + 5*tt.least; tt.each > 1 && len(runs) > most {
			t.Errorf("%+v: %d runs, want at most %d", tt, len(runs), most)
		}
	}
}
