package repo

import (
	"os"
	"syscall"
	"unsafe"
)

// mapFile maps a file that never changes.
func mapFile(name string) (data []byte, unmap func() error, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := int(info.Size())
	if int64(size) != info.Size() {
		return nil, nil, syscall.EFBIG
	}
	if size == 0 {
		return nil, func() error { return nil }, nil
	}
	h, err := syscall.CreateFileMapping(syscall.Handle(f.Fd()), nil, syscall.PAGE_READONLY, 0, 0, nil)
	if err != nil {
		return nil, nil, os.NewSyscallError("CreateFileMapping", err)
	}
	defer syscall.CloseHandle(h) // the view keeps what it needs
	addr, err := syscall.MapViewOfFile(h, syscall.FILE_MAP_READ, 0, 0, uintptr(size))
	if err != nil {
		return nil, nil, os.NewSyscallError("MapViewOfFile", err)
	}
	// The address is no Go memory; vet cannot tell, were it converted directly.
	data = unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), size)
	return data, func() error { return syscall.UnmapViewOfFile(addr) }, nil
}
