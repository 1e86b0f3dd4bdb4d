//! Two kinds of trouble a user can meet; everything else is a broken invariant and an `assert!`.
//!
//! A message is one sentence: the file or key, what was expected, what was found.
use std::fmt;

/// What went wrong, and therefore how the program ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// What was asked for cannot be had: the user's input, or what is here of memory, GPUs and libraries, is not what is needed.
    /// Known before any work is spent: exit code 2.
    Input(String),
    /// Something failed while the work was under way (a full disk, a lost rank): exit code 1.
    Failed(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Input(_) => 2,
            Error::Failed(_) => 1,
        }
    }
    /// The same, met before any work was spent.
    pub fn before_work(self) -> Error {
        Error::Input(self.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Input(text) | Error::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// `Err(Error::Input(format!(…)))`, returned.
#[macro_export]
macro_rules! bad_input {
    ($($text:tt)*) => { return Err($crate::error::Error::Input(format!($($text)*))) };
}

/// `Err(Error::Failed(format!(…)))`, returned.
#[macro_export]
macro_rules! failed {
    ($($text:tt)*) => { return Err($crate::error::Error::Failed(format!($($text)*))) };
}
