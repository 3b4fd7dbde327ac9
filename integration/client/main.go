// Command client does with containerd's Go library what its users do with it, and fails with the reason if something
// else comes out. One call is one test.
//
// usage: client ADDRESS NAMESPACE RUNTIME IMAGE ID TEST
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// Longer than any test takes on a busy machine, shorter than its caller waits.
const limit = 110 * time.Second

var tests = map[string]func(context.Context, containerd.Container) error{
	"streams":   streams,
	"wait":      wait,
	"cancel":    cancel,
	"kill":      kill,
	"reattach":  reattach,
	"unstarted": unstarted,
	"create":    create,
}

// What each test's container runs.
var commands = map[string][]string{
	"streams":   {"cat"},
	"wait":      {"sh", "-c", "read line; exit 7"},
	"cancel":    {"sleep", "100000"},
	"kill":      {"sleep", "100000"},
	"reattach":  {"sh", "-c", "while read line; do echo got $line; done"},
	"unstarted": {"true"},
	"create":    {"sh", "-c", "exit 9"},
}

func main() {
	if len(os.Args) != 7 || tests[os.Args[6]] == nil {
		fmt.Fprintln(os.Stderr, "usage: client ADDRESS NAMESPACE RUNTIME IMAGE ID TEST")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, namespace, runtime, image, id, test string) (err error) {
	ctx, stop := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), limit)
	defer stop()
	client, err := containerd.New(address, containerd.WithDefaultRuntime(runtime))
	if err != nil {
		return err
	}
	defer client.Close()
	unpacked, err := client.GetImage(ctx, image)
	if err != nil {
		return err
	}
	container, err := client.NewContainer(ctx, id, containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, unpacked),
		containerd.WithNewSpec(oci.WithImageConfig(unpacked), oci.WithProcessArgs(commands[test]...)))
	if err != nil {
		return err
	}
	if err := tests[test](ctx, container); err != nil {
		return fmt.Errorf("%s: %w", test, err)
	}
	return container.Delete(ctx, containerd.WithSnapshotCleanup)
}

// expect is the exit code of a task that has ended.
func expect(status containerd.ExitStatus, code uint32) error {
	if status.Error() != nil {
		return status.Error()
	}
	if status.ExitCode() != code {
		return fmt.Errorf("exit code %d instead of %d", status.ExitCode(), code)
	}
	if status.ExitTime().IsZero() {
		return errors.New("the exit has no time")
	}
	return nil
}

// deleted removes a task that has ended.
func deleted(ctx context.Context, task containerd.Task, code uint32, options ...containerd.ProcessDeleteOpts) error {
	status, err := task.Delete(ctx, options...)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return expect(*status, code)
}

// streams: 8 MiB in are the same 8 MiB out, and the end of stdin ends the process.
func streams(ctx context.Context, container containerd.Container) error {
	sent := make([]byte, 8<<20)
	if _, err := rand.Read(sent); err != nil {
		return err
	}
	var got, errs bytes.Buffer
	stdin, feed := io.Pipe()
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(stdin, &got, &errs)))
	if err != nil {
		return err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	if _, err := feed.Write(sent); err != nil {
		return err
	}
	feed.Close()
	// The copy into the fifo may still be under way; the shim's own writer is what CloseIO closes, not the client's.
	if err := task.CloseIO(ctx, containerd.WithStdinCloser); err != nil {
		return err
	}
	if err := expect(<-exit, 0); err != nil {
		return err
	}
	// Returns once the copies have seen their ends.
	if err := deleted(ctx, task, 0); err != nil {
		return err
	}
	if !bytes.Equal(sent, got.Bytes()) || errs.Len() > 0 {
		return fmt.Errorf("%d bytes came of %d, and %q", got.Len(), len(sent), errs.String())
	}
	return nil
}

// wait: many wait, one gives up, and a later one still hears it.
func wait(ctx context.Context, container containerd.Container) error {
	stdin, feed := io.Pipe()
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(stdin, io.Discard, io.Discard)))
	if err != nil {
		return err
	}
	impatient, giveUp := context.WithCancel(ctx)
	defer giveUp()
	gone, err := task.Wait(impatient)
	if err != nil {
		return err
	}
	var exits []<-chan containerd.ExitStatus
	for range 20 {
		exit, err := task.Wait(ctx)
		if err != nil {
			return err
		}
		exits = append(exits, exit)
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	giveUp()
	if status := <-gone; status.Error() == nil {
		return errors.New("a wait that was cancelled tells of an exit")
	}
	if status, err := task.Status(ctx); err != nil || status.Status != containerd.Running {
		return fmt.Errorf("after a cancelled wait: %v, %w", status.Status, err)
	}
	fmt.Fprintln(feed, "end")
	for _, exit := range exits {
		if err := expect(<-exit, 7); err != nil {
			return err
		}
	}
	late, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := expect(<-late, 7); err != nil {
		return fmt.Errorf("a wait after the exit: %w", err)
	}
	if err := task.Kill(ctx, syscall.SIGKILL); !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill after the exit: %w", err)
	}
	return deleted(ctx, task, 7)
}

// cancel: whoever hangs up during Start finds the task created or running, never half of it.
func cancel(ctx context.Context, container containerd.Container) error {
	for after := range 10 {
		task, err := container.NewTask(ctx, cio.NullIO)
		if err != nil {
			return err
		}
		hurried, hangUp := context.WithCancel(ctx)
		started := make(chan error, 1)
		go func() { started <- task.Start(hurried) }()
		time.Sleep(time.Duration(after) * time.Millisecond)
		hangUp()
		<-started
		status, err := task.Status(ctx)
		if err != nil {
			return err
		}
		switch status.Status {
		case containerd.Running:
		case containerd.Created:
			// The request may still be on its way; whichever of the two comes first starts it.
			if err := task.Start(ctx); err != nil {
				// Refused because the first one goes on: then that one ends well.
				if late := running(ctx, task); late != nil {
					return fmt.Errorf("start after a cancelled one: %w, and %w", err, late)
				}
			}
		default:
			return fmt.Errorf("after a cancelled start it is %v", status.Status)
		}
		if err := deleted(ctx, task, 137, containerd.WithProcessKill); err != nil {
			return err
		}
	}
	return nil
}

// create: whoever hangs up during Create leaves a task that can be deleted, or none; the same id can be used again.
func create(ctx context.Context, container containerd.Container) error {
	for after := range 12 {
		hurried, hangUp := context.WithCancel(ctx)
		created := make(chan error, 1)
		go func() {
			_, err := container.NewTask(hurried, cio.NullIO)
			created <- err
		}()
		time.Sleep(time.Duration(after) * 8 * time.Millisecond)
		hangUp()
		<-created
		// The request may still be on its way: until it is through, the id can be taken by what the next moment undoes.
		task, err := whole(ctx, container)
		if err != nil {
			return fmt.Errorf("create after one cancelled in %d ms: %w", after*8, err)
		}
		exit, err := task.Wait(ctx)
		if err != nil {
			return err
		}
		if err := task.Start(ctx); err != nil {
			return err
		}
		if err := expect(<-exit, 9); err != nil {
			return err
		}
		if err := deleted(ctx, task, 9); err != nil {
			return err
		}
	}
	return nil
}

// whole creates the container's task; what a cancelled call has left of one is deleted first.
func whole(ctx context.Context, container containerd.Container) (containerd.Task, error) {
	for {
		task, err := container.NewTask(ctx, cio.NullIO)
		if err == nil {
			return task, nil
		}
		if left, lookup := container.Task(ctx, nil); lookup == nil {
			// Refused or not, the next create tells.
			_, _ = left.Delete(ctx, containerd.WithProcessKill)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// running waits until the task runs.
func running(ctx context.Context, task containerd.Task) error {
	for {
		status, err := task.Status(ctx)
		if err != nil {
			return fmt.Errorf("it is not running but %q: %w", status.Status, err)
		}
		if status.Status == containerd.Running {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// kill: Delete with WithProcessKill ends what runs, and then there is nothing.
func kill(ctx context.Context, container containerd.Container) error {
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	if _, err := task.Delete(ctx); !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("delete of a running task: %w", err)
	}
	if err := deleted(ctx, task, 137, containerd.WithProcessKill); err != nil {
		return err
	}
	if _, err := container.Task(ctx, nil); !errdefs.IsNotFound(err) {
		return fmt.Errorf("the task is there after its delete: %w", err)
	}
	return nil
}

// unstarted: a task that never ran can be deleted.
func unstarted(ctx context.Context, container containerd.Container) error {
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
		return err
	}
	if _, err := container.Task(ctx, nil); !errdefs.IsNotFound(err) {
		return fmt.Errorf("the task is there after its delete: %w", err)
	}
	return nil
}

// seen is what a client has read, by a reader that may go on meanwhile.
type seen struct {
	lock sync.Mutex
	text strings.Builder
}

func (s *seen) Write(bytes []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.text.Write(bytes)
}

func (s *seen) until(ctx context.Context, words string) error {
	for {
		s.lock.Lock()
		text := s.text.String()
		s.lock.Unlock()
		if strings.Contains(text, words) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never read %q, only %q", words, text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// reattach: a client lets go of the fifos and another takes them up.
func reattach(ctx context.Context, container containerd.Container) error {
	// Fifos that outlive whoever has opened them: those of the library's own creators go with the first client.
	var first *cio.DirectIO
	task, err := container.NewTask(ctx, func(id string) (cio.IO, error) {
		set, err := cio.NewFIFOSetInDir("/run/containerd/fifo", id, false)
		if err != nil {
			return nil, err
		}
		first, err = cio.NewDirectIO(ctx, cio.NewFIFOSet(set.Config, nil))
		return first, err
	})
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintln(first.Stdin, "one")
	line := make([]byte, len("got one\n"))
	if _, err := io.ReadFull(first.Stdout, line); err != nil || string(line) != "got one\n" {
		return fmt.Errorf("read %q, %w", line, err)
	}
	first.Cancel()
	if err := first.Close(); err != nil {
		return err
	}

	second := &seen{}
	stdin, feed := io.Pipe()
	again, err := container.Task(ctx, cio.NewAttach(cio.WithStreams(stdin, second, io.Discard)))
	if err != nil {
		return err
	}
	exit, err := again.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(feed, "two")
	if err := second.until(ctx, "got two\n"); err != nil {
		return err
	}
	feed.Close()
	if err := again.CloseIO(ctx, containerd.WithStdinCloser); err != nil {
		return err
	}
	if err := expect(<-exit, 0); err != nil {
		return err
	}
	return deleted(ctx, again, 0)
}
