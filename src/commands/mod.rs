//! The commands, one file each, and the command line that leads to them.
pub mod cli;
pub mod report;
pub mod tokenize;
