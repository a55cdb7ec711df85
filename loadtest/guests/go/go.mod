module wit_component

go 1.27.1

require go.bytecodealliance.org/pkg v0.4.0

// As it lies in the crate that makes the bindings, so that the two fit.
replace go.bytecodealliance.org/pkg => ../pkg
