//go:build !unix

package durabletest

func (p *process) freeze() { p.lab.Skip("SKIPPED: processes can be stopped on Unix only") }
func (p *process) thaw()   {}
