//! The command from outside: the real binary on small trees.

mod advice;
mod apart;
mod bad_input;
mod full_disk;
mod help;
mod interrupted;
mod journey;
mod kills;
mod machines;
mod nginx;
mod readers;
mod resumed;
mod ssh;
mod support;
mod who;
