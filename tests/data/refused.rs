//! What is damaged, or no corpus, is refused by a sentence that names the file and the place.
use crate::*;

#[test]
fn a_missing_corpus_is_named() {
    refused(open(Path::new("/nowhere/corpus")), &["/nowhere/corpus", "none"]);
    let dir = Files::new();
    refused(open(dir.0.path()), &["directory", ".bin"]);
    dir.copy("kjv_text_document.idx");
    refused(open(&dir.path("kjv_text_document")), &["kjv_text_document.bin", "No such file"]);
    refused(open(&dir.path("kjv_text_document.idx")), &["kjv_text_document.bin", "No such file"]);
}

#[test]
fn a_corpus_shorter_than_a_window_is_refused() {
    let dir = Files::new();
    let path = dir.tokens("x.bin", &[1, 2, 3, 4]);
    let name = path.to_str().unwrap();
    refused(Data::open(&[name], Order::AsWritten, &reading(4)), &[name, "at least 5 tokens", "found 4"]);
    assert_eq!(Data::open(&[name], Order::AsWritten, &reading(3)).unwrap().windows(), Some(1));
    refused(Data::open(&[name], Order::AsWritten, &reading(100_000_000)), &["100000001"]);
    refused(open(&dir.write("empty.bin", b"")), &["empty.bin", "empty"]);
}

#[test]
fn truncated_files_are_refused() {
    for name in [
        "kjv_llmc.bin",
        "kjv_text_document.bin",
        "kjv_00000.ds",
        "kjv_true_numpy.npy",
        "kjv_text_document.idx",
        "kjv_00000.ds.index",
    ] {
        let dir = Files::new();
        for part in
            ["kjv_text_document.bin", "kjv_text_document.idx", "kjv_00000.ds", "kjv_00000.ds.index", "kjv_00000.ds.metadata"]
        {
            dir.copy(part);
        }
        let path = dir.copy(name);
        let whole = std::fs::read(&path).unwrap();
        let opened = if name.ends_with(".index") { dir.path("kjv_00000.ds") } else { path.clone() };
        assert!(open(&opened).is_ok(), "{name} whole");
        for left in [whole.len() - 1, whole.len() - 2, whole.len() / 2, 2000, 100, 20, 12] {
            std::fs::write(&path, &whole[..left]).unwrap();
            refused(open(&opened), &[name.trim_end_matches(".index")]);
        }
        let longer = [&whole[..], &[0, 0]].concat();
        std::fs::write(&path, longer).unwrap();
        refused(open(&opened), &[name.trim_end_matches(".index")]);
    }
    let dir = Files::new();
    refused(open(&dir.write("odd.bin", &[0; 1001])), &["odd.bin", "1001 bytes"]);
}

#[test]
fn an_index_whose_sums_do_not_fit_is_refused() {
    let dir = Files::new();
    let prefix = dir.megatron("m", &[&[1, 2], &[3], &[4, 5, 6]]);
    assert_eq!(open(&prefix).unwrap().len(), 6);
    let good = std::fs::read(dir.path("m.idx")).unwrap();
    let refuse = |at: usize, value: u8, parts: &[&str]| {
        let mut bad = good.clone();
        bad[at] = value;
        dir.write("m.idx", &bad);
        refused(open(&prefix), parts);
    };
    refuse(34, 1, &["m.idx", "sequence 1 at byte 2", "found 4"]); // a length
    refuse(34 + 8, 9, &["m.bin", "expected 24 bytes", "found 12"]); // the last length
    refuse(37, 0x80, &["m.idx", "lengths of 0 or more"]);
    refuse(34 + 12 + 8, 8, &["m.idx", "sequence 1 at byte 4", "found 8"]); // a pointer
    refuse(34 + 12 + 16, 4, &["m.idx", "sequence 2 at byte 6", "found 4"]);
    refuse(34 + 36 + 8, 9, &["m.idx", "document numbers", "found 9"]);
    refuse(34 + 36 + 24, 2, &["m.idx", "last document number to be 3", "found 2"]);
    refuse(18, 2, &["m.idx", "2 sequences"]);
    refuse(9, 2, &["m.idx", "version 1", "found 2"]);
    refuse(17, 6, &["m.idx", "type 6"]);
    refuse(0, 0, &["m.idx", "MMIDIDX"]);
}

#[test]
fn a_token_outside_the_vocabulary_is_named_with_its_place() {
    let dir = Files::new();
    let mut tokens = vec![5u16; 3000];
    tokens[2500] = 999;
    let name = dir.tokens("x.bin", &tokens);
    let name = name.to_str().unwrap();
    let small = Reading { vocab: 999, ..reading(10) };
    let data = Data::open(&[name], Order::AsWritten, &small).unwrap();
    assert!(data.batch(0, 0, &solo(8, 8)).is_ok());
    refused(data.batch(248, 0, &solo(8, 8)), &[name, "found 999", "byte 5000", "vocabulary of 999"]);
    refused(data.scan(0, 1), &[name, "found 999", "byte 5000"]);
    assert_eq!(data.scan(0, 2), Ok(1500));
    refused(data.scan(1, 2), &["byte 5000"]);
    assert_eq!(Data::open(&[name], Order::AsWritten, &reading(10)).unwrap().scan(0, 1), Ok(3000));
    let mut loader = Loader::start(Arc::new(data), solo(8, 8), 240).unwrap();
    assert!(loader.next().is_ok());
    refused(loader.next().map(|_| ()), &["byte 5000"]);
}

#[test]
fn what_is_no_corpus_is_refused() {
    let dir = Files::new();
    let text = "In the beginning God created the heaven and the earth. ".repeat(4);
    refused(open(&dir.write("t.bin", text.as_bytes())), &["t.bin", "text", "tokenize"]);
    refused(open(&dir.write("z.bin", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0])), &["z.bin", "zstd"]);
    refused(open(&dir.write("g.bin", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0])), &["g.bin", "gzip"]);
    let mut evaluation = vec![0; 1024];
    evaluation[..4].copy_from_slice(&20240522u32.to_le_bytes());
    refused(open(&dir.write("e.bin", &evaluation)), &["e.bin", "evaluation"]);
}

#[test]
fn weights_that_are_none_are_refused() {
    let kjv = fixture("kjv_nanogpt.bin");
    for weight in ["-1", "0", "abc"] {
        let spec = format!("{}:{weight}", kjv.display());
        refused(Data::open(&[&spec], Order::AsWritten, &reading(8)), &[&spec]);
    }
}
