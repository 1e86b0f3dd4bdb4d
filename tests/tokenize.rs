//! `tokenize`: the fixtures come out byte for byte; threads and ranks leave no trace; each kind of input; bad input.
use clap::Parser;
use llm_train::commands::tokenize::{self, Format, Split, TokenizeArgs};
use llm_train::data::formats::Corpus;
use llm_train::data::{self, Data, Order, Reading};
use llm_train::error::{Error, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(ROOT).join("tests/fixtures/corpora").join(name)).unwrap()
}

fn kjv() -> PathBuf {
    Path::new(ROOT).join("data/kjv.txt.gz")
}

fn kjv_text() -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(fs::File::open(kjv()).unwrap()), &mut text).unwrap();
    text
}

fn arguments(input: &[PathBuf], output: &Path) -> TokenizeArgs {
    TokenizeArgs {
        input: input.to_vec(),
        output: output.to_owned(),
        tokenizer: Some(Path::new(ROOT).join("data/kjv.tokenizer.json")),
        train_vocab: None,
        format: Format::Megatron,
        split: Split::Paragraph,
        text_key: "text".into(),
        append_eod: true,
        eod_token: None,
        val_fraction: 0.0,
        threads: Some(2),
        unit_bytes: 64 << 20,
    }
}

fn alone(args: &TokenizeArgs) -> Result<tokenize::Summary> {
    tokenize::run(args, 0, 1, &mut |r| r).map(|s| s.expect("rank 0 has the summary"))
}

/// Runs `size` ranks as threads, which agree as ranks do: the first error of any is everybody's.
fn together(args: &TokenizeArgs, size: usize) -> Vec<Result<Option<tokenize::Summary>>> {
    let (barrier, first) = (Arc::new(Barrier::new(size)), Arc::new(Mutex::new(Ok(()))));
    let ranks: Vec<_> = (0..size)
        .map(|rank| {
            let (barrier, first, args) = (barrier.clone(), first.clone(), args.clone());
            std::thread::spawn(move || {
                tokenize::run(&args, rank, size, &mut |r| {
                    if r.is_err() {
                        *first.lock().unwrap() = r;
                    }
                    barrier.wait();
                    let everybodys = first.lock().unwrap().clone();
                    barrier.wait();
                    everybodys
                })
            })
        })
        .collect();
    ranks.into_iter().map(|r| r.join().unwrap()).collect()
}

/// All files of a directory by name.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn refused<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    match result {
        Err(Error::Input(text)) => assert!(parts.iter().all(|p| text.contains(p)), "{text:?} lacks one of {parts:?}"),
        other => panic!("expected a refusal with {parts:?}: {other:?}"),
    }
}

/// The documents of a Megatron corpus, decoded.
fn decoded(prefix: &Path) -> Vec<String> {
    let tokenizer = tokenizers::Tokenizer::from_file(data::tokenizer_of(prefix).unwrap()).unwrap();
    let corpus = Corpus::open(prefix, None, 1 << 16).unwrap();
    let mut tokens = vec![0; corpus.len() as usize];
    corpus.read(0, &mut tokens, usize::MAX).unwrap();
    let mut starts = Vec::new();
    corpus.document_starts(0, &tokens, None, &mut starts);
    starts.push(tokens.len());
    starts.windows(2).map(|w| tokenizer.decode(&tokens[w[0]..w[1]], true).unwrap()).collect()
}

// ---------------------------------------------------------------------------------------------------- the fixture

#[test]
fn the_shipped_text_gives_the_fixtures_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("kjv");
    let mut args = arguments(&[kjv()], &prefix);
    args.tokenizer = Some(Path::new(ROOT).join("tests/fixtures/gpt2_tokenizer.json"));
    for (format, files) in [
        (Format::Megatron, &[(".bin", "kjv_text_document.bin"), (".idx", "kjv_text_document.idx")][..]),
        (Format::Llmc, &[(".bin", "kjv_llmc.bin")]),
        (Format::Nanogpt, &[(".bin", "kjv_nanogpt.bin")]),
    ] {
        args.format = format;
        let summary = alone(&args).unwrap();
        let count = summary.corpora[0].1;
        assert_eq!((count.documents, count.tokens, count.bytes), (1189, 1_024_544, 4_136_661));
        for (ending, fixed) in files {
            assert!(fs::read(format!("{}{ending}", prefix.display())).unwrap() == fixture(fixed), "{fixed}");
        }
    }
    let facts = data::facts(&prefix).unwrap();
    assert_eq!((facts.bytes, facts.vocab, facts.eos, facts.token_size), (4_136_661, 50257, Some(50256), 2));
    assert_eq!(Some(facts), data::facts(&dir.path().join("kjv.bin")));
    assert_eq!(data::tokenizer_of(&dir.path().join("kjv.idx")), Some(dir.path().join("kjv.tokenizer.json")));
}

#[test]
fn threads_and_ranks_leave_no_trace() {
    let source = tempfile::tempdir().unwrap();
    let text: String = kjv_text().chars().take(120_000).collect();
    let plain = source.path().join("plain.txt");
    fs::write(&plain, &text).unwrap();
    let lines: String = text.lines().map(|l| serde_json::json!({ "n": 1, "text": l }).to_string() + "\n").collect();
    let json = source.path().join("lines.jsonl");
    fs::write(&json, &lines).unwrap();
    let zst = source.path().join("lines.jsonl.zst");
    fs::write(&zst, zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let input = [plain, json, zst];
    let made = |split, val_fraction, threads, unit_bytes, ranks| {
        let dir = tempfile::tempdir().unwrap();
        let mut args = arguments(&input, &dir.path().join("out"));
        (args.split, args.val_fraction, args.threads, args.unit_bytes) = (split, val_fraction, Some(threads), unit_bytes);
        let outcomes = together(&args, ranks);
        assert!(outcomes.iter().enumerate().all(|(r, o)| o.as_ref().unwrap().is_some() == (r == 0)));
        files(dir.path())
    };
    for (split, val_fraction) in [(Split::Paragraph, 0.05), (Split::Line, 0.0), (Split::File, 0.5)] {
        let reference = made(split, val_fraction, 1, 1 << 30, 1);
        let expected: &[&str] = if val_fraction > 0.0 {
            &[
                "out-val.bin",
                "out-val.idx",
                "out-val.json",
                "out-val.tokenizer.json",
                "out.bin",
                "out.idx",
                "out.json",
                "out.tokenizer.json",
            ]
        } else {
            &["out.bin", "out.idx", "out.json", "out.tokenizer.json"]
        };
        assert_eq!(reference.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
        for (threads, unit_bytes, ranks) in [(2, 1 << 30, 1), (2, 10_007, 1), (1, 100_003, 3), (2, 65_536, 2)] {
            assert!(
                made(split, val_fraction, threads, unit_bytes, ranks) == reference,
                "{split:?} {threads} {unit_bytes} {ranks}"
            );
        }
    }
}

#[test]
fn the_last_part_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("kjv");
    let mut args = arguments(&[kjv()], &prefix);
    args.tokenizer = None;
    args.train_vocab = Some(512);
    args.val_fraction = 0.05;
    let summary = alone(&args).unwrap();
    let [(_, train), (ref name, val)] = summary.corpora[..] else { panic!("{summary}") };
    assert_eq!((name.as_path(), summary.vocab), (dir.path().join("kjv-val").as_path(), 512));
    assert_eq!((train.documents + val.documents, train.bytes + val.bytes), (1189, 4_136_661));
    let held = val.bytes as f64 / 4_136_661.0;
    assert!((0.05..0.052).contains(&held), "{held}");
    let text = kjv_text();
    let documents: Vec<&str> = text.trim_end().split("\n\n").collect();
    assert_eq!(decoded(&prefix), documents[..train.documents as usize]);
    assert_eq!(decoded(&dir.path().join("kjv-val")), documents[train.documents as usize..]);
    // Bytes by the table of lengths are the bytes of the text.
    let lengths = data::token_bytes(&dir.path().join("kjv.tokenizer.json")).unwrap();
    let reading = Reading { seq: 1, vocab: 512, width: None, eos: None, reset_attention: false };
    let corpus = &Data::open(&[prefix.to_str().unwrap()], Order::AsWritten, &reading).unwrap();
    let mut tokens = vec![0; corpus.corpora()[0].len() as usize];
    corpus.corpora()[0].read(0, &mut tokens, 512).unwrap();
    assert_eq!(data::bytes_of(&tokens, &lengths), train.bytes);
}

#[test]
fn a_vocabulary_comes_from_the_training_part_alone_and_is_always_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    let made = |held: &str, threads| {
        fs::write(&text, format!("{}\n\n{held}\n", "one two three four one two\n\n".repeat(40))).unwrap();
        let mut args = arguments(std::slice::from_ref(&text), &dir.path().join("out"));
        (args.tokenizer, args.train_vocab, args.val_fraction, args.threads) = (None, Some(400), 0.05, Some(threads));
        alone(&args).unwrap();
        fs::read(dir.path().join("out.tokenizer.json")).unwrap()
    };
    // The text yields fewer than 400 tokens: any pair of the held-out words would be taken.
    let first = made(&"zz zz".repeat(10), 1);
    assert!(first == made(&"qq qq".repeat(10), 2));
    assert!(String::from_utf8(first).unwrap().contains("<|endoftext|>"));
}

// ---------------------------------------------------------------------------------------------------------- inputs

#[test]
fn lines_paragraphs_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    let made = |content: &str, split, unit_bytes| {
        fs::write(&text, content).unwrap();
        let mut args = arguments(std::slice::from_ref(&text), &dir.path().join("out"));
        (args.split, args.unit_bytes) = (split, unit_bytes);
        alone(&args).unwrap();
        decoded(&args.output)
    };
    let content = "\n\nfirst\nsecond\r\n  \nthird line\n\n\n\n fourth \nfifth";
    for unit in [1, 2, 3, 5, 7, 11, 100] {
        let lines = ["first", "second", "third line", " fourth ", "fifth"];
        assert_eq!(made(content, Split::Line, unit), lines, "pieces of {unit}");
        assert_eq!(made(content, Split::Paragraph, unit), ["first\nsecond", "third line", " fourth \nfifth"], "pieces of {unit}");
    }
    assert_eq!(made(content, Split::File, 1), [content]);
}

#[test]
fn json_lines_and_packed_files() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"id\": 7, \"body\": \"first \\u00e9\\n\"}\n\n{\"body\": \"\"}\n{\"body\": \"second\"}";
    let put = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name)
    };
    let gz = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let (a, b) = lines.as_bytes().split_at(20);
    let input = [
        put("a.jsonl", lines.as_bytes()),
        put("b.jsonl.gz", &[gz(a), gz(b)].concat()), // members one after the other are one text
        put("c.json.zst", &zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        put("d.txt.gz", &gz(b"third")),
    ];
    let mut args = arguments(&input, &dir.path().join("out"));
    args.text_key = "body".into();
    alone(&args).unwrap();
    let three = ["first é\n", "second"].repeat(3);
    assert_eq!(decoded(&args.output), [three, vec!["third"]].concat());
}

/// A Parquet file of two row groups with an optional column "text" and a number.
fn parquet(path: &Path, groups: &[&[Option<&str>]]) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    let schema =
        parquet::schema::parser::parse_message_type("message m { required int32 id; optional binary text (utf8); }").unwrap();
    let properties = parquet::file::properties::WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY);
    let file = fs::File::create(path).unwrap();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build())).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&vec![1; rows.len()], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = rows.iter().flatten().map(|t| ByteArray::from(*t)).collect();
        let levels: Vec<i16> = rows.iter().map(|t| t.is_some() as i16).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let many: Vec<String> = (0..3000).map(|i| format!("row {i}")).collect();
    let many: Vec<Option<&str>> = many.iter().map(|s| Some(s.as_str())).collect();
    parquet(&path, &[&[Some("first"), None, Some(""), Some("second\n")], &many]);
    let packed = dir.path().join("y.parquet.zst");
    fs::write(&packed, zstd::encode_all(fs::File::open(&path).unwrap(), 1).unwrap()).unwrap();
    let expected: Vec<&str> = [Some("first"), Some("second\n")].iter().chain(&many).flatten().copied().collect();
    for (input, ranks) in [(path.clone(), 1), (path.clone(), 3), (packed, 1)] {
        let args = arguments(&[input], &dir.path().join("out"));
        together(&args, ranks).into_iter().for_each(|o| drop(o.unwrap()));
        assert_eq!(decoded(&args.output), expected);
    }
    let mut args = arguments(std::slice::from_ref(&path), &dir.path().join("out"));
    args.text_key = "content".into();
    refused(alone(&args), &["x.parquet", "content", "id, text"]);
    args.text_key = "id".into();
    refused(alone(&args), &["x.parquet", "id", "INT32"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    refused(alone(&args), &["x.parquet", "whole Parquet"]);
}

// -------------------------------------------------------------------------------------------------------- bad input

#[test]
fn bad_input_is_one_sentence_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name)
    };
    let good = put("good.txt", b"some text");
    let out = dir.path().join("made/out");
    let with = |input: PathBuf, change: &dyn Fn(&mut TokenizeArgs)| {
        let mut args = arguments(&[good.clone(), input], &out);
        change(&mut args);
        let outcomes = together(&args, 2);
        assert!(outcomes.iter().all(|o| o.is_err()), "all ranks leave together");
        let left = if out.parent().unwrap().exists() { files(out.parent().unwrap()) } else { Vec::new() };
        assert!(left.is_empty(), "left behind: {:?}", left.iter().map(|f| &f.0).collect::<Vec<_>>());
        outcomes.into_iter().next().unwrap().map(|_| ())
    };
    let same = |_: &mut TokenizeArgs| {};
    refused(with(dir.path().join("none.txt"), &same), &["none.txt", "No such file"]);
    refused(with(dir.path().to_owned(), &same), &["directory"]);
    refused(with(put("latin.txt", b"caf\xe9"), &same), &["latin.txt", "UTF-8", "3 bytes into"]);
    refused(
        with(put("a.jsonl", b"{\"text\": \"x\"}\n{\"text\": 3}"), &same),
        &["a.jsonl", "\"text\"", "byte 14", "another type"],
    );
    refused(with(put("b.jsonl", b"{\"txt\": \"x\"}"), &same), &["b.jsonl", "\"text\"", "none"]);
    refused(with(put("c.jsonl", b"{\"text\": "), &same), &["c.jsonl", "JSON", "byte 0"]);
    refused(with(put("d.gz", &[0x1f, 0x8b, 8, 0, 1, 2, 3]), &same), &["d.gz"]);
    refused(with(good.clone(), &|a| a.tokenizer = Some(good.clone())), &["good.txt", "tokenizer.json"]);
    refused(with(good.clone(), &|a| a.eod_token = Some("<end>".into())), &["<end>", "--eod-token"]);
    refused(with(good.clone(), &|a| a.val_fraction = 1.0), &["--val-fraction", "found 1"]);
    refused(with(good.clone(), &|a| (a.train_vocab, a.tokenizer) = (Some(100), None)), &["--train-vocab", "257", "100"]);
    // Alone, the folder is gone too; of several ranks the last may still be at work in it.
    let mut args = arguments(&[put("latin.txt", b"caf\xe9")], &dir.path().join("new/out"));
    refused(alone(&args), &["latin.txt"]);
    args.tokenizer = Some(good.clone());
    refused(alone(&args), &["tokenizer.json"]);
    assert!(!dir.path().join("new").exists());
    let empty = put("empty.txt", b"\n");
    args = arguments(&[empty], &out);
    refused(alone(&args), &["--input", "without any"]);
    // An output that would replace an input.
    args = arguments(&[put("in.json", b"{\"text\": \"x\"}")], &dir.path().join("in"));
    refused(alone(&args), &["in.json", "is an input"]);
}

#[test]
fn a_sentencepiece_tokenizer_has_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let json = serde_json::json!({
        "added_tokens": [{ "id": 0, "content": "<s>", "special": true }, { "id": 9, "content": "<x>", "special": false }],
        "decoder": { "type": "Sequence" },
        "model": { "type": "BPE", "vocab": { "<s>": 0, "<0x0A>": 1, "▁the": 2, "é": 3 } }
    });
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(data::token_bytes(&path), Ok(vec![0, 1, 4, 2, 0, 0, 0, 0, 0, 3]));
    fs::write(&path, json.to_string().replace("\"é\":3", "\"é\":99999999999")).unwrap();
    refused(data::token_bytes(&path), &["tokenizer.json", "token numbers"]);
}

#[test]
fn the_command_line() {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TokenizeArgs,
    }
    let line = "x --input a b --output p --tokenizer t.json --format llmc --append-eod --split line --text-key body";
    let args = Cli::try_parse_from(line.split(' ')).ok().unwrap().args;
    assert_eq!((args.input.len(), args.format, args.split, args.append_eod), (2, Format::Llmc, Split::Line, true));
    assert!(Cli::try_parse_from("x --input a --output p".split(' ')).is_err(), "a tokenizer, or --train-vocab");
    assert!(Cli::try_parse_from("x --input a --output p --train-vocab 512".split(' ')).is_ok());
}

#[test]
fn the_shipped_vocabulary_is_made_by_this_tool() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = arguments(&[kjv()], &dir.path().join("kjv"));
    (args.tokenizer, args.train_vocab, args.val_fraction) = (None, Some(2048), 0.05);
    let summary = alone(&args).unwrap();
    let made = fs::read(dir.path().join("kjv.tokenizer.json")).unwrap();
    assert_eq!(summary.vocab, 2048);
    assert!(made == fs::read(Path::new(ROOT).join("data/kjv.tokenizer.json")).unwrap_or_default());
}
