//! The model held against Hugging Face's numbers, against finite differences, and against itself.
mod common;
mod config;
mod generate;
mod golden;
mod gradient;
mod halves;
mod layout;
mod schedule;
mod tally;
