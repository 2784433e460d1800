//! Arithmetic of shapes and strides: which changes of places need no copy.

pub(super) type Strides = Vec<usize>;

/// The strides of a tensor whose last axis is innermost.
pub(super) fn row_major(shape: &[usize]) -> Strides {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The elements that a view names, in its order.
pub(super) fn gathered<T: Copy>(values: &[T], shape: &[usize], strides: &[usize]) -> Vec<T> {
    offsets(shape, strides).into_iter().map(|offset| values[offset]).collect()
}

/// The offset of each element of a view, in its order.
pub(super) fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut all = vec![0];
    for (extent, stride) in shape.iter().zip(strides) {
        all = all
            .iter()
            .flat_map(|offset| (0..*extent).map(move |index| offset + index * stride))
            .collect();
    }
    all
}

/// The strides of the same elements under another shape, if strides can say it.
pub(super) fn reshaped(shape: &[usize], strides: &[usize], new: &[usize]) -> Option<Strides> {
    let old: Vec<(usize, usize)> = shape
        .iter()
        .copied()
        .zip(strides.iter().copied())
        .filter(|(extent, _)| *extent != 1)
        .collect();
    let mut result = vec![0; new.len()];
    let (mut at, mut axis) = (0, 0);
    while axis < new.len() {
        if new[axis] == 1 {
            axis += 1;
            continue;
        }
        // The shortest runs of old and new axes with the same number of elements.
        let (start, first) = (at, axis);
        let (mut before, mut after) = (old.get(at)?.0, new[axis]);
        at += 1;
        axis += 1;
        while before != after {
            if before < after {
                before *= old.get(at)?.0;
                at += 1;
            } else {
                after *= new.get(axis)?;
                axis += 1;
            }
        }
        let run = &old[start..at];
        if run.windows(2).any(|pair| pair[0].1 != pair[1].1 * pair[1].0) {
            return None;
        }
        let mut stride = run.last()?.1;
        for inner in (first..axis).rev() {
            result[inner] = stride;
            stride *= new[inner];
        }
    }
    // An axis of one element steps over all that lies within it, so that a border can be found there.
    for axis in (0..new.len()).rev().filter(|axis| new[*axis] == 1) {
        result[axis] = match axis + 1 < new.len() {
            true => result[axis + 1] * new[axis + 1],
            false => 1,
        };
    }
    Some(result)
}

/// One loop over several views: its extent, and the step of each view.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loop {
    pub(super) extent: usize,
    pub(super) strides: Vec<usize>,
}

/// Loops over views of one shape, in the order of `axes`, as few as strides allow. Axes of one element are left out.
pub(super) fn loops(shape: &[usize], axes: &[usize], views: &[&[usize]]) -> Vec<Loop> {
    let mut loops: Vec<Loop> = Vec::new();
    for &axis in axes.iter().filter(|axis| shape[**axis] != 1) {
        let next = Loop {
            extent: shape[axis],
            strides: views.iter().map(|strides| strides[axis]).collect(),
        };
        let merges = |outer: &Loop| {
            outer
                .strides
                .iter()
                .zip(&next.strides)
                .all(|(outer, inner)| *outer == inner * next.extent)
        };
        match loops.last_mut() {
            Some(outer) if merges(outer) => {
                outer.extent *= next.extent;
                outer.strides = next.strides;
            }
            _ => loops.push(next),
        }
    }
    loops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reshape_is_a_view_exactly_if_every_element_has_a_place_that_strides_can_name() {
        // Channels innermost, as [1, channels, height, width].
        let shape = [1, 8, 4, 3];
        let strides = [96, 1, 24, 8];
        for (new, viewable) in [
            (vec![1, 8, 12], true),
            (vec![8, 4, 3, 1], true),
            (vec![2, 4, 4, 3], true),
            (vec![1, 96], false),
            (vec![32, 3], false),
        ] {
            let found = reshaped(&shape, &strides, &new);
            assert_eq!(found.is_some(), viewable, "{new:?}");
            if let Some(found) = found {
                assert_eq!(offsets(&new, &found), offsets(&shape, &strides), "{new:?}");
            }
        }
    }

    #[test]
    fn loops_merge_what_lies_next_to_each_other_in_every_view() {
        let dense = row_major(&[2, 3, 4]);
        assert_eq!(loops(&[2, 3, 4], &[0, 1, 2], &[&dense]).len(), 1);
        let bordered = [20, 4, 1];
        assert_eq!(loops(&[2, 3, 4], &[0, 1, 2], &[&dense, &bordered]).len(), 2);
    }
}
