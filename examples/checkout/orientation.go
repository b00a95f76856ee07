package main

import (
	"image"
	"io"

	"github.com/bep/imagemeta"
	"golang.org/x/image/draw"
	"golang.org/x/image/math/f64"
)

// An orientation is the value of EXIF's tag of that name (EXIF 2.32, 4.6.4): which side
// of the picture the first stored row is, and which the first stored column.
//
//	      1     2      3       4       5     6      7       8
//	row   top   top    bottom  bottom  left  right  right   left
//	col   left  right  right   left    top   top    bottom  bottom
type orientation int

const upright orientation = 1

// readOrientation returns the orientation of a JPEG or PNG picture. It is upright if
// the file does not say, or says it in a way that cannot be read: broken metadata is
// no reason to refuse a picture.
func readOrientation(file io.ReadSeeker, format string) orientation {
	as := imagemeta.JPEG
	if format == "png" {
		as = imagemeta.PNG
	}
	isOrientation := func(tag imagemeta.TagInfo) bool {
		return tag.Source == imagemeta.EXIF && tag.Namespace == "IFD0" && tag.Tag == "Orientation" // IFD1 is the preview's
	}
	found := upright
	// The error adds nothing: what was read before it counts.
	_, _ = imagemeta.Decode(imagemeta.Options{
		R: file, ImageFormat: as, Sources: imagemeta.EXIF, ShouldHandleTag: isOrientation,
		HandleTag: func(tag imagemeta.TagInfo) error {
			if n, ok := tag.Value.(uint16); ok && n >= 1 && n <= 8 {
				found = orientation(n)
			}
			return imagemeta.ErrStopWalking
		},
	})
	return found
}

// sideways reports whether the stored columns are the rows of the picture.
func (o orientation) sideways() bool { return o >= 5 }

// apply returns the picture as it is to be shown.
func (o orientation) apply(stored image.Image) image.Image {
	if o == upright {
		return stored
	}
	bounds := stored.Bounds()
	size := bounds.Size()
	w, h := float64(size.X), float64(size.Y)
	if o.sideways() {
		size.X, size.Y = size.Y, size.X
	}
	// Each matrix maps a point of the stored picture to one of the result: x' is
	// the sum of the first row times x, y and 1, y' that of the second.
	matrix := map[orientation]f64.Aff3{
		2: {-1, 0, w, 0, 1, 0},
		3: {-1, 0, w, 0, -1, h},
		4: {1, 0, 0, 0, -1, h},
		5: {0, 1, 0, 1, 0, 0},
		6: {0, -1, h, 1, 0, 0},
		7: {0, -1, h, -1, 0, w},
		8: {0, 1, 0, -1, 0, w},
	}[o]
	// Transform wants the matrix for the stored picture's own coordinates.
	x, y := float64(bounds.Min.X), float64(bounds.Min.Y)
	matrix[2] -= matrix[0]*x + matrix[1]*y
	matrix[5] -= matrix[3]*x + matrix[4]*y
	shown := image.NewRGBA(image.Rectangle{Max: size})
	draw.NearestNeighbor.Transform(shown, matrix, stored, bounds, draw.Src, nil)
	return shown
}
