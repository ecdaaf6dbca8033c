//! The format as FORMAT.md tells it, written a second time and simply.

use super::*;

pub fn varint(out: &mut Vec<u8>, n: u64) {
    match n {
        0..=250 => out.push(n as u8),
        251..=0xffff => out.extend([&[251][..], &(n as u16).to_le_bytes()].concat()),
        0x1_0000..=0xffff_ffff => out.extend([&[252][..], &(n as u32).to_le_bytes()].concat()),
        _ => out.extend([&[253][..], &n.to_le_bytes()].concat()),
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend(text.bytes());
}

fn refs(out: &mut Vec<u8>, chunk: &ChunkRef) {
    out.extend(chunk.id.as_bytes());
    varint(out, chunk.len.into());
}

/// An item: its bytes, what its hash is made of, and what a link says of it (last path, two sums).
struct Item(Vec<u8>, String, u64, u64, [u8; 32]);

fn tree(kept: &mut HashMap<NodeId, Vec<u8>>, mut items: Vec<Item>, paths: bool) -> Option<(NodeId, u8)> {
    for level in 0..=48u8 {
        let mut pages: Vec<Vec<Item>> = vec![vec![]];
        for item in items {
            let page = pages.last_mut().expect("never empty");
            let bytes: usize = page.iter().map(|item| item.0.len()).sum();
            if page.len() >= 2 && bytes + item.0.len() > 16384 {
                pages.push(vec![]);
            }
            let hash = match paths {
                true => *blake3::hash(&[&[level], item.1.as_bytes()].concat()).as_bytes(),
                false => item.4,
            };
            let hash = u32::from_le_bytes(hash[..4].try_into().expect("four bytes"));
            let closes = u64::from(hash) < item.0.len() as u64 * (1 << 20);
            let page = pages.last_mut().expect("never empty");
            page.push(item);
            if page.len() >= 2 && closes {
                pages.push(vec![]);
            }
        }
        pages.retain(|page| !page.is_empty());
        let links: Vec<Item> = pages.iter().map(|page| link(kept, page, level, paths)).collect();
        match &links[..] {
            [] => return None,
            [top] => return Some((NodeId::from_bytes(top.4), level)),
            _ => items = links,
        }
    }
    panic!("too high");
}

fn link(kept: &mut HashMap<NodeId, Vec<u8>>, page: &[Item], level: u8, paths: bool) -> Item {
    let kind = if paths { 2 } else { 4 };
    let mut node = if level == 0 { vec![kind, 1] } else { vec![kind + 1, 1, level] };
    varint(&mut node, page.len() as u64);
    page.iter().for_each(|item| node.extend(&item.0));
    let id = *NodeId::of(&node).as_bytes();
    kept.insert(NodeId::from_bytes(id), node);
    let (last, mut bytes) = (page.last().expect("not empty").1.clone(), Vec::new());
    let (sum, count) = page.iter().fold((0, 0), |(a, b), item| (a + item.2, b + item.3));
    if paths {
        string(&mut bytes, &last);
    }
    bytes.extend(id);
    if !paths {
        varint(&mut bytes, sum);
    }
    varint(&mut bytes, count);
    Item(bytes, last, sum, count, id)
}

pub fn chunk_tree(chunks: &[ChunkRef]) -> NodeId {
    let item = |chunk: &ChunkRef| {
        let mut bytes = Vec::new();
        refs(&mut bytes, chunk);
        Item(bytes, String::new(), chunk.len.into(), 1, *chunk.id.as_bytes())
    };
    tree(&mut HashMap::new(), chunks.iter().map(item).collect(), false).expect("not empty").0
}

fn entry(path: &RelPath, kind: &EntryKind) -> Item {
    let mut out = Vec::new();
    string(&mut out, path.as_str());
    match kind {
        EntryKind::File { mode, len, content } => {
            out.push(0);
            varint(&mut out, (*mode).into());
            varint(&mut out, *len);
            match content {
                Content::Inline(chunks) => {
                    out.extend([0, chunks.len() as u8]);
                    chunks.iter().for_each(|chunk| refs(&mut out, chunk));
                }
                Content::Tree { root, chunks } => {
                    out.push(1);
                    out.extend(root.as_bytes());
                    varint(&mut out, *chunks);
                }
            }
        }
        EntryKind::Symlink { target } => {
            out.push(1);
            string(&mut out, target);
        }
        EntryKind::Dir { mode } => {
            out.push(2);
            varint(&mut out, (*mode).into());
        }
    }
    Item(out, path.as_str().to_owned(), 0, 1, [0; 32])
}

pub fn put(kept: &mut HashMap<NodeId, Vec<u8>>, model: &Model) -> VersionId {
    let mut root = vec![1, 1, 1, 1];
    [16 << 10, 64 << 10, 256 << 10].iter().for_each(|n| varint(&mut root, *n));
    match tree(kept, model.iter().map(|(path, kind)| entry(path, kind)).collect(), true) {
        None => root.push(0),
        Some((top, level)) => {
            root.push(1);
            root.extend(top.as_bytes());
            root.push(level);
        }
    }
    let files = model.values().filter_map(|kind| match kind {
        EntryKind::File { len, content: Content::Inline(chunks), .. } => Some((*len, chunks.len() as u64)),
        EntryKind::File { len, content: Content::Tree { chunks, .. }, .. } => Some((*len, *chunks)),
        _ => None,
    });
    let sums = files
        .fold([model.len() as u64, 0, 0, 0], |[n, f, b, c], (len, chunks)| [n, f + 1, b + len, c + chunks]);
    sums.iter().for_each(|sum| varint(&mut root, *sum));
    let id = NodeId::of(&root);
    kept.insert(id, root);
    VersionId::from_bytes(*id.as_bytes())
}
