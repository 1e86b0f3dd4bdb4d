//! A table in an HDF5 file: a group whose one-dimensional datasets are the columns, all of the same length.
//!
//! A column says once what it is called, what it means, and how it goes into and out of a row; writing, reading and
//! attributes follow from that. All are made before SWMR starts and only grow afterwards.
use hdf5::types::{FixedUnicode, VarLenUnicode};
use hdf5::{Dataset, File, Group, Location, Result};
use std::str::FromStr;

/// A text of at most this many bytes: texts of variable length live in HDF5's global heap, which SWMR does not keep
/// in order, so a text appended to a live file has a fixed length.
const LINE: usize = 240;

/// How a column's value leaves a row and enters it again.
pub enum Value<T> {
    Integer(fn(&T) -> i64, fn(&mut T, i64)),
    Real(fn(&T) -> f64, fn(&mut T, f64)),
    /// Any length, only in rows written before SWMR starts.
    Text(fn(&T) -> &str, fn(&mut T, String)),
    /// Cut to [`LINE`] bytes; may be appended at any time.
    Line(fn(&T) -> &str, fn(&mut T, String)),
}

/// One dataset of the table.
pub struct Column<T> {
    pub name: &'static str,
    /// `s`, `byte`, `token/s`, …; `1` for a count or a pure number; `text`.
    pub units: &'static str,
    /// What the number is exactly, and how it was formed.
    pub long_name: &'static str,
    pub value: Value<T>,
}

/// A table open for writing.
pub struct Table<T: 'static> {
    columns: &'static [Column<T>],
    datasets: Vec<Dataset>,
    rows: usize,
}

impl<T> Table<T> {
    /// Makes the group `name` with a dataset for each column, in chunks of `chunk` rows.
    pub fn create(file: &File, name: &str, about: &str, columns: &'static [Column<T>], chunk: usize) -> Result<Table<T>> {
        let group = file.create_group(name)?;
        text_attribute(&group, "long_name", about)?;
        let create = |column: &Column<T>| {
            let dataset = match column.value {
                Value::Integer(..) => group.new_dataset::<i64>().chunk(chunk).shape(0..).create(column.name)?,
                Value::Real(..) => group.new_dataset::<f64>().chunk(chunk).shape(0..).create(column.name)?,
                Value::Text(..) => group.new_dataset::<VarLenUnicode>().chunk(chunk).shape(0..).create(column.name)?,
                Value::Line(..) => group.new_dataset::<FixedUnicode<LINE>>().chunk(chunk).shape(0..).create(column.name)?,
            };
            text_attribute(&dataset, "units", column.units)?;
            text_attribute(&dataset, "long_name", column.long_name)?;
            Ok(dataset)
        };
        let datasets = columns.iter().map(create).collect::<Result<_>>()?;
        Ok(Table { columns, datasets, rows: 0 })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows at the end.
    pub fn append(&mut self, rows: &[T]) -> Result<()> {
        self.write(self.rows, rows)
    }

    /// Writes rows from row `first` on, which is at most one past the last.
    pub fn write(&mut self, first: usize, rows: &[T]) -> Result<()> {
        assert!(first <= self.rows, "row {first} of a table of {}", self.rows);
        let end = first + rows.len();
        for (column, dataset) in self.columns.iter().zip(&self.datasets) {
            if end > self.rows {
                dataset.resize(end)?;
            }
            let place = first..end;
            match column.value {
                Value::Integer(get, _) => dataset.write_slice(&rows.iter().map(get).collect::<Vec<i64>>(), place)?,
                Value::Real(get, _) => dataset.write_slice(&rows.iter().map(get).collect::<Vec<f64>>(), place)?,
                Value::Text(get, _) => dataset.write_slice(&texts(rows, get)?, place)?,
                Value::Line(get, _) => dataset.write_slice(&lines(rows, get)?, place)?,
            }
        }
        self.rows = self.rows.max(end);
        Ok(())
    }

    /// Overwrites one number of a row that stands already.
    pub fn set_real(&self, column: &str, row: usize, value: f64) -> Result<()> {
        let at = self.columns.iter().position(|c| c.name == column).expect("a column of this table");
        self.datasets[at].write_slice(&[value], row..row + 1)
    }
}

/// The rows of a table. Columns that the file lacks keep their default; a row that a live writer has written only in
/// part is left out.
pub fn read<T: Default + Clone>(group: &Group, columns: &[Column<T>]) -> Result<Vec<T>> {
    let present = columns.iter().filter(|c| group.link_exists(c.name));
    let datasets = present.map(|c| Ok((c, group.dataset(c.name)?))).collect::<Result<Vec<_>>>()?;
    let length = datasets.iter().map(|(_, d)| d.size()).min().unwrap_or(0);
    let mut rows = vec![T::default(); length];
    for (column, dataset) in datasets {
        match column.value {
            Value::Integer(_, set) => fill(&mut rows, dataset.read_slice_1d::<i64, _>(..length)?, set),
            Value::Real(_, set) => fill(&mut rows, dataset.read_slice_1d::<f64, _>(..length)?, set),
            Value::Text(_, set) => {
                let texts = dataset.read_slice_1d::<VarLenUnicode, _>(..length)?;
                fill(&mut rows, texts.iter().map(|t| t.as_str().to_string()), set);
            }
            Value::Line(_, set) => {
                let lines = dataset.read_slice_1d::<FixedUnicode<LINE>, _>(..length)?;
                fill(&mut rows, lines.iter().map(|t| t.as_str().to_string()), set);
            }
        }
    }
    Ok(rows)
}

fn fill<T, V>(rows: &mut [T], values: impl IntoIterator<Item = V>, set: fn(&mut T, V)) {
    rows.iter_mut().zip(values).for_each(|(row, value)| set(row, value));
}

/// A text as an attribute of anything in the file.
pub fn text_attribute(place: &Location, name: &str, text: &str) -> Result<()> {
    place.new_attr::<VarLenUnicode>().shape(()).create(name)?.write_scalar(&variable(text)?)
}

fn texts<T>(rows: &[T], get: fn(&T) -> &str) -> Result<Vec<VarLenUnicode>> {
    rows.iter().map(|row| variable(get(row))).collect()
}

fn lines<T>(rows: &[T], get: fn(&T) -> &str) -> Result<Vec<FixedUnicode<LINE>>> {
    let line = |row: &T| {
        let text = get(row).replace('\0', " ");
        let end = (0..=text.len().min(LINE)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        FixedUnicode::from_str(&text[..end]).map_err(|e| hdf5::Error::from(e.to_string()))
    };
    rows.iter().map(line).collect()
}

fn variable(text: &str) -> Result<VarLenUnicode> {
    VarLenUnicode::from_str(&text.replace('\0', " ")).map_err(|e| hdf5::Error::from(e.to_string()))
}
