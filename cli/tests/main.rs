//! The command from outside: the real binary on small trees.

mod advice;
mod apart;
mod bad_input;
mod full_disk;
mod help;
mod interrupted;
mod journey;
mod readers;
mod support;
