//! Damaged files of every form end in an error or a corpus, never in a panic.
use crate::*;

/// A good file with a few bytes set, cut or lengthened.
fn mutated(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let n = good.len();
    let edits = prop::collection::vec((0..n, prop_oneof![any::<u8>(), Just(0), Just(255)]), 0..6);
    (edits, prop_oneof![3 => Just(n), 1 => 0..n + 9]).prop_map(move |(edits, left)| {
        let mut bytes = good.clone();
        edits.into_iter().for_each(|(at, value)| bytes[at] = value);
        bytes.resize(left, 0);
        bytes
    })
}

fn small_llmc() -> Vec<u8> {
    let mut file = [&20240520u32.to_le_bytes()[..], &1u32.to_le_bytes(), &5u32.to_le_bytes()].concat();
    file.resize(1024, 0);
    file.extend([0; 10]);
    file
}

fn small_numpy() -> Vec<u8> {
    let dict = "{'descr': '<u2', 'fortran_order': False, 'shape': (3, 2), }";
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend(format!("{dict:<117}\n").bytes());
    file.extend([0; 12]);
    file
}

/// Whatever the bytes, a reader answers; what it accepts lies inside the file.
fn feed(file: &[u8], beside: &[u8], metadata: Option<&[u8]>) {
    let path = Path::new("fuzz");
    if let Ok((width, len)) = llmc::parse(file, path) {
        assert!(llmc::HEADER + len * width.bytes() <= file.len());
    }
    if let Ok((width, start, len)) = numpy::parse(file, path) {
        assert!(start + len * width.bytes() <= file.len());
    }
    if let Ok(header) = megatron::parse(file, beside.len(), path, path) {
        assert!(header.tokens * header.width.bytes() <= beside.len());
    }
    if let Ok((width, len)) = datatrove::parse(file, metadata, beside.len(), path) {
        assert!(len * width.bytes() <= beside.len());
    }
    for width in [Width::U16, Width::U32] {
        if let Ok(len) = raw::parse(file, width, path) {
            assert!(len * width.bytes() <= file.len());
        }
    }
}

/// The same through files: whatever opens can be read to its end, documents too.
fn feed_files(files: &[(&str, &[u8])], opened: &str) {
    let dir = Files::new();
    files.iter().for_each(|(name, bytes)| drop(dir.write(name, bytes)));
    if let Ok(corpus) = open(&dir.path(opened)) {
        let mut tokens = vec![0; corpus.len() as usize];
        corpus.read(0, &mut tokens, usize::MAX).unwrap();
        let mut starts = Vec::new();
        corpus.document_starts(0, &tokens, Some(0), &mut starts);
        assert!(starts.is_sorted() && starts.iter().all(|&s| s < tokens.len()));
        corpus.fingerprint();
        corpus.scan(0, 2, 3).unwrap_or_default();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(
        file in prop::collection::vec(any::<u8>(), 0..1200), beside in prop::collection::vec(any::<u8>(), 0..64),
        magic in prop::sample::select(vec![&b""[..], b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0\x08", b"\x93NUMPY\x01\0", b"\x93NUMPY\x02\0",
            &[0x88, 0xd8, 0x34, 1, 1, 0, 0, 0], &[0xa1, 0xd9, 0x34, 1, 7, 0, 0, 0]]),
    ) {
        let file = [magic, &file].concat();
        feed(&file, &beside, None);
        feed(&file, &beside, Some(&beside));
    }

    #[test]
    fn damaged_headers_are_answered(
        llmc in mutated(small_llmc()), numpy in mutated(small_numpy()), idx in mutated(index(&[&[1, 2], &[3], &[4, 5, 6]])),
        ends in mutated([2u64, 3, 6].iter().flat_map(|e| e.to_le_bytes()).collect()), metadata in mutated(b"gpt2|2\n6\n".to_vec()),
    ) {
        for file in [&llmc, &numpy, &idx] {
            feed(file, &[0; 12], None);
        }
        feed(&ends, &[0; 12], Some(&metadata));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_open_whole_or_not_at_all(
        llmc in mutated(small_llmc()), numpy in mutated(small_numpy()), idx in mutated(index(&[&[1, 2], &[3], &[4, 5, 6]])),
        bin in mutated(vec![0; 12]), ends in mutated([2u64, 3, 6].iter().flat_map(|e| e.to_le_bytes()).collect()),
    ) {
        feed_files(&[("a.bin", &llmc)], "a.bin");
        feed_files(&[("a.bin", &numpy)], "a.bin");
        feed_files(&[("a.idx", &idx), ("a.bin", &bin)], "a");
        feed_files(&[("a.ds", &bin), ("a.ds.index", &ends)], "a.ds");
    }
}
