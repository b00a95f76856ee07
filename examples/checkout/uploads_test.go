package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const csvHeader = "sku,name,quantity,price_cents\n"

func TestImport(t *testing.T) {
	ts := openShop(t)
	location := ts.post("/imports", csvHeader+
		"jam,\"Jam, strawberry\",40,390\n"+ // 2
		"oops,\"never closed,1,100\n"+ // 3
		"tea,Green tea,7,700\n"+ // 4
		"tart,Tart,many,450\n"+ // 5
		"pie,Pie,-1,450\n"+ // 6
		",Nothing,1,1\n"+ // 7
		"plum,,1,1\n"+ // 8
		"fig,Fig\n"+ // 9
		"rice,\"Rice\x00\",1,1\n"+ // 10
		"\n"+
		"\"corn\",\"Corn \"\"sweet\"\"\",5,120") // 12
	s := ts.until(location, done)
	require.Equal(t, "done", s.State)
	require.Equal(t, int64(3), s.Rows)
	require.Equal(t, s.Progress.Total, s.Progress.Done)
	var lines []int64
	for _, bad := range s.BadRows {
		require.NotEmpty(t, bad.Reason)
		lines = append(lines, bad.Line)
	}
	require.Equal(t, []int64{3, 5, 6, 7, 8, 9, 10}, lines)
	require.Equal(t, int64(40), ts.inStock("jam"))
	require.Equal(t, int64(7), ts.inStock("tea"), "what was there is replaced")
	require.Equal(t, int64(5), ts.inStock("corn"))
	ts.tidies()
	ts.do("GET", strings.Replace(location, "imports", "images", 1), "").problem(t, http.StatusNotFound)

	t.Run("names in every script", func(t *testing.T) {
		text, err := os.ReadFile("testdata/names.csv")
		require.NoError(t, err)
		s := ts.until(ts.post("/imports", string(text)), done)
		require.Empty(t, s.BadRows)
		require.Equal(t, int64(5), s.Rows)
		var name string
		require.NoError(t, ts.store.read.QueryRow(`SELECT name FROM products WHERE sku = 'family'`).Scan(&name))
		require.Equal(t, "\U0001F468\u200d\U0001F469\u200d\U0001F467", name)
		invoiced := ts.until(ts.post("/orders", `{"customer":"می\u200cخواهم <a@example.com>","lines":[{"sku":"family","quantity":1},{"sku":"the","quantity":1}]}`), decided)
		require.Equal(t, "invoiced", invoiced.State, invoiced.Reason)
	})
	t.Run("the reason says what is wrong", func(t *testing.T) {
		location := ts.post("/imports", csvHeader+"plum,Pl\xfcm,1,1\npl\xfcm,Plum,1,1\npear,Pear\u202eraep,1,1\npea\u00a0r,Pear,1,1\nfig,"+
			strings.Repeat("x", nameBytes+1)+",1,1\nlime,\u00a0\u200d,1,1\n")
		var reasons []string
		for _, bad := range ts.until(location, done).BadRows {
			reasons = append(reasons, bad.Reason)
		}
		require.Equal(t, []string{
			"name: not UTF-8", "sku: not UTF-8", "name: the character U+202E at byte 4 is not allowed",
			"sku: the character U+00A0 at byte 3 is not printable", "name: longer than 200 bytes", "name: empty",
		}, reasons)
	})
	t.Run("a file in another encoding", func(t *testing.T) {
		for _, body := range []string{"sku,name,quantity,price_cents,gr\xf6\xdfe\n", "\xff\xfes\x00k\x00u\x00,\x00n\x00"} {
			require.Contains(t, ts.do("POST", "/imports", body).problem(t, http.StatusUnprocessableEntity).Detail, "not UTF-8")
		}
	})
	t.Run("columns in another order, with a BOM", func(t *testing.T) {
		s := ts.until(ts.post("/imports", "\ufeffprice_cents,\"sku\",quantity, name\r\n100,nut,3,Nut\r\n"), done)
		require.Equal(t, "done", s.State)
		require.Equal(t, int64(3), ts.inStock("nut"))
	})
	t.Run("bad rows are counted when there are too many to list", func(t *testing.T) {
		location := ts.post("/imports", csvHeader+strings.Repeat("bad\n", badRowsKept+5)+"kiwi,Kiwi,1,1\n")
		s := ts.until(location, done)
		require.Len(t, s.BadRows, badRowsKept)
		require.Equal(t, int64(1), s.Rows)
		require.Contains(t, string(ts.do("GET", location, "").body), `"bad_rows_omitted":5`)
	})
	for name, body := range map[string]string{
		"empty": "", "not a CSV": "\x00\x01\x02", "no header": "tea,Tea,1,1\n", "a column too few": "sku,name,quantity\n",
		"a column twice": "sku,name,quantity,quantity\n", "a broken header": "\"sku,name,quantity,price_cents\n",
		"endless header": strings.Repeat("sku,", 1<<18),
	} {
		t.Run(name, func(t *testing.T) {
			ts.do("POST", "/imports", body).problem(t, http.StatusUnprocessableEntity)
		})
	}
}

// An upload that breaks off is not answered 202 and leaves nothing.
func TestImportThatBreaksOff(t *testing.T) {
	ts := openShop(t)
	_, err := ts.try("POST", "/imports", io.MultiReader(strings.NewReader(csvHeader+strings.Repeat("a,A,1,1\n", 1<<16)), errorReader{io.ErrClosedPipe}))
	require.Error(t, err)
	require.Eventually(t, func() bool {
		stats := ts.reg.Stats()
		return stats.Held+stats.Queued+stats.Running == 0
	}, time.Minute, time.Millisecond)
	left, err := os.ReadDir(ts.spool.dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// An upload is refused before it is sent if there is no place for its work.
func TestImportsFull(t *testing.T) {
	ts := openShop(t)
	ts.imports.Pause()
	defer ts.imports.Resume()
	for ts.do("POST", "/imports", csvHeader+"a,A,1,1\n").StatusCode == http.StatusAccepted {
	}
	rest, client := io.Pipe() // the client sends its first line and waits
	defer func() { _ = client.Close() }()
	a, err := ts.try("POST", "/imports", io.MultiReader(strings.NewReader(csvHeader), rest))
	require.NoError(t, err)
	a.problem(t, http.StatusServiceUnavailable)
	require.Regexp(t, `^[1-9]\d*$`, a.Header.Get("Retry-After"))
}

// An interrupted import continues where it was: each row is imported once.
func TestImportGoesOnAfterARestart(t *testing.T) {
	ts := openShop(t)
	const rows = 20_000
	var csv strings.Builder
	csv.WriteString(csvHeader)
	for i := range rows {
		fmt.Fprintf(&csv, "n%d,\"N\n%d\",1,1\n", i, i)
	}
	csv.WriteString("the end\n")
	// A row of two lines is bad only because of its name: the line break.
	text := strings.ReplaceAll(csv.String(), "\"N\n", "\"N ")
	midway := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { // between its batches, and keeps the store busy until the end
		for rows := int64(0); rows == 0; {
			if err := ts.store.update(context.Background(), func(tx *sql.Tx) error {
				if err := tx.QueryRow(`SELECT coalesce(sum(rows), 0) FROM uploads`).Scan(&rows); err != nil || rows == 0 {
					return err
				}
				close(midway)
				<-ts.reg.Stopping()
				return nil
			}); err != nil {
				return
			}
		}
	})
	location := ts.post("/imports", text)
	<-midway
	ts.kill()
	writer.Wait()

	again := openShop(t, func(c *config) { c.data = ts.cfg.data })
	left := again.status(location)
	require.Equal(t, "pending", left.State, "it was interrupted")
	require.Less(t, left.Rows, int64(rows))
	require.Greater(t, left.Rows, int64(0))
	require.NoError(t, again.resume(context.Background()))
	s := again.until(location, done)
	require.Equal(t, "done", s.State)
	require.Equal(t, int64(rows), s.Rows)
	require.Len(t, s.BadRows, 1)
	require.Equal(t, int64(rows+2), s.BadRows[0].Line)
}

func TestImage(t *testing.T) {
	ts := openShop(t)
	for _, test := range []struct {
		query         string
		width, height int // of the source
		want          image.Point
	}{
		{"", 800, 450, image.Pt(640, 360)},
		{"?width=100", 800, 450, image.Pt(100, 56)},
		{"?width=1", 200, 10, image.Pt(1, 1)},
		{"?width=500", 501, 300, image.Pt(500, 299)},
		{"?width=500", 30, 20, image.Pt(30, 20)}, // is not made larger
	} {
		for _, format := range []string{"jpeg", "png"} {
			t.Run(fmt.Sprint(format, test), func(t *testing.T) {
				var file bytes.Buffer
				encode(t, &file, format, samplePicture(test.width, test.height))
				s := ts.until(ts.post("/images"+test.query, file.String()), done)
				require.Equal(t, "done", s.State, s.Reason)
				picture := ts.do("GET", s.Picture, "")
				require.Equal(t, "image/"+format, picture.Header.Get("Content-Type"))
				config, got, err := image.DecodeConfig(bytes.NewReader(picture.body))
				require.NoError(t, err)
				require.Equal(t, format, got)
				require.Equal(t, test.want, image.Pt(config.Width, config.Height))
			})
		}
	}
	ts.tidies()
}

// tidies waits for the spool to be empty: an upload leaves it just after it has ended.
func (ts *testShop) tidies() {
	ts.t.Helper()
	require.Eventually(ts.t, func() bool {
		left, err := os.ReadDir(ts.spool.dir)
		return err == nil && len(left) == 0
	}, time.Minute, time.Millisecond)
}

func encode(t *testing.T, w io.Writer, format string, img image.Image) {
	t.Helper()
	if format == "png" {
		require.NoError(t, png.Encode(w, img))
	} else {
		require.NoError(t, jpeg.Encode(w, img, nil))
	}
}

// Each source pixel counts: noise becomes grey, it does not stay noise.
func TestShrinkAverages(t *testing.T) {
	src := image.NewGray(image.Rect(0, 0, 1024, 1024))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range src.Pix {
		src.Pix[i] = uint8(255 * random.IntN(2))
	}
	small := shrink(src, image.Pt(16, 16))
	require.Equal(t, image.Pt(16, 16), small.Bounds().Size())
	for y := range 16 {
		for x := range 16 {
			r, _, _, _ := small.At(x, y).RGBA()
			require.InDelta(t, 127, r>>8, 25)
		}
	}
}

func TestBadImages(t *testing.T) {
	ts := openShop(t)
	var file bytes.Buffer
	require.NoError(t, png.Encode(&file, samplePicture(300, 200)))

	t.Run("none", func(t *testing.T) {
		for _, body := range []string{"", "hello", "GIF89a", "\xff\xd8\xff", file.String()[:20]} {
			ts.do("POST", "/images", body).problem(t, http.StatusUnsupportedMediaType)
		}
	})
	t.Run("a bomb", func(t *testing.T) {
		bomb := bytes.Clone(file.Bytes())
		binary.BigEndian.PutUint32(bomb[16:], 60_000)
		binary.BigEndian.PutUint32(bomb[20:], 60_000)
		binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
		ts.do("POST", "/images", string(bomb)).problem(t, http.StatusUnprocessableEntity)
	})
	t.Run("half a picture", func(t *testing.T) {
		s := ts.until(ts.post("/images", file.String()[:file.Len()/2]), done)
		require.Equal(t, "failed", s.State)
		require.Contains(t, s.Reason, "broken")
	})
	t.Run("no width", func(t *testing.T) {
		for _, width := range []string{"0", "-1", "wide", "4097"} {
			ts.do("POST", "/images?width="+width, file.String()).problem(t, http.StatusBadRequest)
		}
	})
	t.Run("too large", func(t *testing.T) {
		ts.do("POST", "/images", file.String()+strings.Repeat("x", imageBytes)).problem(t, http.StatusRequestEntityTooLarge)
	})
}

func TestSampleIsAPicture(t *testing.T) {
	ts := openShop(t)
	_, err := png.Decode(bytes.NewReader(ts.do("GET", "/sample.png", "").body))
	require.NoError(t, err)
}
