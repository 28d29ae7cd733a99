package emulator

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"smartvm/emulator/microhttp"
	"smartvm/emulator/serde"
)

// prepare takes the metadata and, if there is a configuration file, starts the VM that it describes.
func (m *process) prepare(c *controller, api string, config, metadata []byte) error {
	var data *any
	if metadata != nil {
		data = new(any)
		if err := serde.Unmarshal(metadata, serde.Any(data)); err != nil {
			m.panic("MMDS error: metadata provided not valid json: %s", debugJSON(err))
		}
	}
	if config == nil {
		if data == nil {
			return nil
		}
		if err := c.vm.mmds.put(*data); err != nil {
			return &exitError{"RunWithApiError error: Failed to build MicroVM: Populating MMDS from file failed: " + err.Error() + "..",
				"RunWithApi(BuildMicroVmError(PopulateMmds(DataStoreLimitExceeded)))", exitGeneric}
		}
		return nil
	}
	words := "Configuration for VMM from one single json failed: "
	err := c.configure(config, data)
	debug := "ParseFromJson"
	if err == nil {
		words, debug = "Could not Start MicroVM from one single json: ", "StartMicroVM"
		err = c.start()
	}
	if err != nil {
		variant := map[string]string{"RunWithApi": "BuildFromJson", "RunWithoutApi": "BuildMicroVMFromJson"}[api]
		return &exitError{api + "Error error: Failed to build MicroVM from Json: " + words + err.Error(),
			fmt.Sprintf("%s(%s(%s(%s)))", api, variant, debug, debugFault(err)), exitGeneric}
	}
	c.log.Info(moduleMain, "Successfully started microvm that was configured from one single json")
	return nil
}

// answer serves the API until the guest ends or a load fails.
func (m *process) answer(c *controller, api string, server *microhttp.Server) error {
	ended := c.machine.Ended()
	if server == nil {
		ticks := time.NewTicker(metricsPeriod)
		defer ticks.Stop()
		for {
			select {
			case <-ended:
				return m.end(c, api)
			case <-ticks.C:
				c.tick()
			}
		}
	}
	done := make(chan struct{})
	var waker sync.WaitGroup
	defer waker.Wait() // it must not wake a server that is closed: its descriptor may be another file's by then
	defer close(done)
	waker.Go(func() {
		ticks := time.NewTicker(metricsPeriod)
		defer ticks.Stop()
		for {
			select {
			case <-done:
				return
			case <-ended:
				server.Wake()
				return
			case <-ticks.C:
				server.Wake()
			}
		}
	})
	err := server.Serve(c.handle, func() bool {
		c.tick()
		select {
		case <-ended:
			return true
		default:
			return c.fatal != nil
		}
	})
	switch {
	case err != nil:
		return err
	case c.fatal != nil:
		kind := "Restore"
		if errors.Is(c.fatal, errResume) {
			kind = "Resume"
		}
		return &exitError{"RunWithApiError error: Failed to build MicroVM: " + c.fatal.Error() + ".",
			"RunWithApi(BuildMicroVmError(" + kind + "))", exitGeneric}
	}
	return m.end(c, api)
}

// end tells how the guest ended.
func (m *process) end(c *controller, api string) error {
	e := c.machine.End()
	if e.Err == nil {
		return nil
	}
	return &exitError{fmt.Sprintf("%sError error: MicroVM stopped with an error: GenericError: %v", api, e.Err),
		fmt.Sprintf("%s(MicroVMStoppedWithError(GenericError)): %v", api, e.Err), exitGeneric}
}
