# make quickstart   build, back up, verify, restore, compare   [SRC=… DEST=…]
# make test         everything the tests need, then all tests
# make check        what CI runs: test, lint, race detector, fuzzing
# make bench        compare with other tools; prints ratios      [BENCH="-rounds 2 -scale 0.1"]
# make microbench   parts of the program, for benchstat           [PKG=./internal/repo BENCHES=Writer COUNT=10 BENCHTIME=1s]

SHELL = /bin/sh
GO = go
export CGO_ENABLED = 0

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build quickstart test check lint vet race fuzz vuln bench microbench clean go

build: go
	@mkdir -p bin
	$(GO) build -trimpath -ldflags "-s -w" -o bin/backup-handler ./cmd/backup-handler

go:
	@command -v $(GO) >/dev/null 2>&1 || { echo "Go 1.26.6 or later is needed: https://go.dev/doc/install" >&2; exit 1; }

quickstart: build
	@sh scripts/quickstart

# 'make lint' vets, and nobody looks for symbols in a test: a fifth of what compiling takes.
LEAN = -vet=off -ldflags='-s -w'

# The tests judge restored trees by other people's programs, and store on real servers.
# These are installed first: packages tested side by side share them.
test: go
	@sh scripts/packages rsync=rsync getfacl=acl setfacl=acl getfattr=attr lsattr=e2fsprogs git=git setcap=libcap2-bin sqlite3=sqlite3 \
		/usr/sbin/sshd=openssh-server ssh-keygen=openssh-client node=nodejs npm=npm \
		zbarimg=zbar-tools rsvg-convert=librsvg2-bin \
		mkfs.btrfs=btrfs-progs dbus-daemon=dbus gnome-keyring-daemon=gnome-keyring secret-tool=libsecret-tools systemd-analyze=systemd \
		/usr/sbin/mariadbd=mariadb-server mariadb-dump=mariadb-client mariadb-binlog=mariadb-server \
		psql=postgresql-client pg_ctlcluster=postgresql
	@sh scripts/tools azurite promtool & loaded=$$!; sh scripts/tools versitygw fake-gcs-server mailpit && wait $$loaded # one loads while the other compiles
	@# Tests wait half of their time, for disks and servers: two packages for each processor.
	$(GO) test $(LEAN) -p $$((2 * $$(getconf _NPROCESSORS_ONLN))) -timeout 30m ./...

check: test lint race fuzz vuln

lint: vet
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-ed: $$out" >&2; exit 1; }
	$(GO) run $(STATICCHECK) ./...

vet: go
	$(GO) vet ./...
	$(GO) -C scripts/vet build -o $(CURDIR)/build/vet .
	GOOS=darwin build/vet ./...
	GOOS=windows build/vet ./...

# Where goroutines share state. The race detector needs cgo. Of sftp, what connections share.
race: go
	@sh scripts/packages gcc=gcc
	CGO_ENABLED=1 $(GO) test $(LEAN) -race -timeout 30m -run 'Connections|Pairs|Frozen|Cancelled|Meanwhile|Tidy' ./internal/sftp
	CGO_ENABLED=1 $(GO) test $(LEAN) -race -short -timeout 30m ./internal/seal ./internal/storage/... ./internal/parity ./internal/keyring ./internal/repo ./internal/tree ./internal/backup ./internal/files ./internal/restore ./internal/httpstore ./internal/verify ./internal/journal ./internal/notify ./internal/dbdump/...

# Each decoder for a few seconds; longer by hand with FUZZTIME=10m.
FUZZTIME = 3s
fuzz: go
	@sh scripts/fuzz $(FUZZTIME)

vuln: go
	@sh scripts/vuln $(GOVULNCHECK)

bench: build
	@sh scripts/packages restic=restic borg=borgbackup zstd=zstd
	$(GO) run ./bench $(BENCH)

# Two outputs of one machine, of before a change and of after it, are compared by
# benchstat, which says what is noise:
#   make microbench >old.txt; (change); make microbench >new.txt
#   go run golang.org/x/perf/cmd/benchstat@latest old.txt new.txt
PKG = ./internal/...
BENCHES = .
BENCHTIME = 0.5s
COUNT = 6
microbench: go
	@echo "to compare two outputs: go run golang.org/x/perf/cmd/benchstat@latest old.txt new.txt" >&2
	@$(GO) test -run '^$$' -bench '$(BENCHES)' -benchmem -benchtime $(BENCHTIME) -count $(COUNT) -timeout 60m $(PKG)

clean:
	rm -rf bin build
