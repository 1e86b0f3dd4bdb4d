//! The text column of a Parquet file, row group by row group. Rows without text are left out.
use crate::bad_input;
use crate::error::{Error, Result};
use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::path::Path;

fn trouble(path: &Path) -> impl Fn(ParquetError) -> Error + '_ {
    move |e| Error::Input(format!("{}: expected a whole Parquet file, found: {e}", path.display()))
}

/// The compressed bytes of each row group's text.
pub fn row_groups(path: &Path, key: &str) -> Result<Vec<u64>> {
    let file = File::open(path).map_err(|e| Error::Input(format!("{}: expected a readable file, found: {e}", path.display())))?;
    groups_of(&file, path, key)
}

/// [`row_groups`] of a file that is open.
pub fn groups_of(file: &File, path: &Path, key: &str) -> Result<Vec<u64>> {
    let (reader, column) = open(file, path, key)?;
    Ok(reader.metadata().row_groups().iter().map(|g| g.column(column).compressed_size().max(0) as u64).collect())
}

/// Calls `put` with each text of row group `group` and its row, until it answers `false`.
pub fn read(file: &File, path: &Path, key: &str, group: usize, put: &mut dyn FnMut(Vec<u8>, u64) -> bool) -> Result<()> {
    let (reader, column) = open(file, path, key)?;
    let rows = reader.get_row_group(group).map_err(trouble(path))?;
    let ColumnReader::ByteArrayColumnReader(mut texts) = rows.get_column_reader(column).map_err(trouble(path))? else {
        bad_input!("{}: expected text in column {key}, found another type", path.display());
    };
    let (mut values, mut levels, mut row) = (Vec::new(), Vec::new(), 0);
    loop {
        values.clear();
        levels.clear();
        let (records, _, _) = texts.read_records(1024, Some(&mut levels), None, &mut values).map_err(trouble(path))?;
        if records == 0 {
            return Ok(());
        }
        for text in values.iter().filter(|v| !v.is_empty()) {
            if !put(text.data().to_vec(), row) {
                return Ok(());
            }
        }
        row += records as u64;
    }
}

/// The file and the number of its text column.
fn open(file: &File, path: &Path, key: &str) -> Result<(SerializedFileReader<File>, usize)> {
    let file =
        file.try_clone().map_err(|e| Error::Failed(format!("{}: expected to open it again, found: {e}", path.display())))?;
    let reader = SerializedFileReader::new(file).map_err(trouble(path))?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
    let Some(column) = names.iter().position(|n| n == key) else {
        bad_input!("{}: expected a column {key}, found {}", path.display(), names.join(", "));
    };
    let found = schema.column(column);
    if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() != 0 {
        bad_input!("{}: expected one text a row in column {key}, found {}", path.display(), found.physical_type());
    }
    Ok((reader, column))
}
