package s3

// CloseIdle closes connections that are not in use.
func (s *Store) CloseIdle() { s.transport.CloseIdleConnections() }
