//! The command from outside: the real binary on small trees.

mod bad_input;
mod help;
mod interrupted;
mod journey;
mod support;
