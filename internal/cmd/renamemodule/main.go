// Command renamemodule gives the Go module in the working folder another path (`make module MODULE=example.com/x`): in
// go.mod, in every import, and where comments, pages and build files name a package or require the module. Names that
// are not the module's path stay: the command smartvm, the package smartvm, /var/lib/smartvm.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: renamemodule PATH    (in the folder of go.mod)")
		os.Exit(2)
	}
	changed, err := rename(".", os.Args[1])
	for _, name := range changed {
		fmt.Println(name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "renamemodule:", err)
		os.Exit(1)
	}
}
