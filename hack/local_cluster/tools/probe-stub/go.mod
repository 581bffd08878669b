module local-cluster/probe-stub

go 1.26.0
