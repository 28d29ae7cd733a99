//go:build !linux

package unixsock

import (
	"context"
	"net"
)

func dialLong(_ context.Context, path string) (net.Conn, error) { return nil, tooLong(path) }

func listenLong(path string) (net.Listener, error) { return nil, tooLong(path) }
