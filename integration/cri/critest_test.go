package main

// The conformance suite is a test binary of another module; naming what it imports keeps its checksums in go.sum.
import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
