module local-cluster/web

go 1.26.0
