package main

import "github.com/spf13/cobra"

// commands lists every command.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.backupCommand(),
		a.restoreCommand(),
		a.verifyCommand(),
		a.drillCommand(),
		a.preflightCommand(),
		a.snapshotsCommand(),
		a.lsCommand(),
		a.findCommand(),
		a.diffCommand(),
		a.catCommand(),
		a.dbCommand(),
		a.statsCommand(),
		a.statusCommand(),
		a.runsCommand(),
		a.forgetCommand(),
		a.approveCommand(),
		a.pruneCommand(),
		a.copyCommand(),
		a.repairCommand(),
		a.daemonCommand(),
		a.serviceCommand(),
		a.initCommand(),
		a.keyCommand(),
		a.configCommand(),
		a.auditCommand(),
		a.notifyCommand(),
		a.versionCommand(),
		limitsTopic(),
	}
}
