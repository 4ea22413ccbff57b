// Command etcd is the etcd server; its own main package lies in another folder of the module than its name says.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
