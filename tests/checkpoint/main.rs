//! Checkpoints from outside.
mod batch; //    another global batch goes on at the right sample
mod folder; //   cut off, damaged, old ones, failures of one rank
mod full_disk; // the previous one stays whole
mod fuzz; //     any bytes at all
mod golden; //   Hugging Face's own files, byte for byte
mod ranks; //    N ranks write, M read
mod refused; //  one sentence each
mod toy;
