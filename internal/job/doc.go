// Package job is one run from start to finish: which repositories, with which
// keys, from which sources, what is copied where, and how it ended.
//
// It knows configuration and every kind of source and destination, but no flags
// and no terminal. access.go: keys. destination.go: repositories of a run.
// known.go: which repository was where. preflight.go: can a backup be made? backup.go: a backup. copy.go: snapshots from
// one destination to another. repair.go: a destination healed from another.
// remote.go, tailnet.go: how other machines are reached. snapshot.go: what a
// snapshot's name means. exit.go: exit codes.
package job
