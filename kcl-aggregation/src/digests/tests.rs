use proptest::prelude::*;

use super::*;

/// Side by side at every level of vectors that this machine has.
fn check(messages: &[Vec<u8>]) {
    let expected: Vec<Digest> = messages
        .iter()
        .map(|message| Md5::digest(message).into())
        .collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    for level in [Level::baseline(), Level::new()] {
        assert_eq!(side_by_side(level, &messages), expected, "{level:?}");
    }
    assert_eq!(md5_of_each(&messages), expected);
}

fn message(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 7 + at / 251 + seed * 31) as u8)
        .collect()
}

#[test]
fn digests_are_those_of_rfc_1321() {
    let rows: [(&[u8], &str); 7] = [
        (b"", "d41d8cd98f00b204e9800998ecf8427e"),
        (b"a", "0cc175b9c0f1b6a831c399e269772661"),
        (b"abc", "900150983cd24fb0d6963f7d28e17f72"),
        (b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (b"abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        (
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (
            b"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ];
    let messages = rows.map(|(message, _)| message);
    for (digest, (_, expected)) in side_by_side(Level::new(), &messages).iter().zip(rows) {
        let shown: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn digests_agree_at_every_padding() {
    for lanes in 0..=2 * LANES + 1 {
        check(&vec![message(100, lanes); lanes]);
    }
    let edges = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129];
    for length in edges {
        check(&[message(length, 1)]);
    }
    check(&edges.map(|length| message(length, length)));
    check(&(0..200).map(|length| message(length, 3)).collect::<Vec<_>>());
    check(&[message(51_200, 1), message(0, 2), message(64, 3)]);
}

proptest! {
    #[test]
    fn digests_agree_for_any_messages(
        messages in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..70),
                proptest::collection::vec(any::<u8>(), 0..2_000),
            ],
            0..50,
        ),
    ) {
        check(&messages);
    }
}
