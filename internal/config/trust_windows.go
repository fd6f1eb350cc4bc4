package config

import "os"

func distrust(string, os.FileInfo) error { return nil }
