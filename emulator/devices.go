package emulator

import (
	"smartvm/emulator/serde"
)

// entropyConfig is the body of PUT /entropy, and its place in GET /vm/config.
type entropyConfig struct {
	Limiter *rateLimiter `json:"rate_limiter"`
}

func decodeEntropy(e *entropyConfig) serde.Decode {
	return serde.Struct("EntropyDeviceConfig", limiterField("rate_limiter", &e.Limiter))
}

type putEntropy struct {
	onlyBeforeStart
	cfg entropyConfig
}

func parsePutEntropy(body []byte) (action, string, error) {
	var a putEntropy
	err := decode(body, decodeEntropy(&a.cfg))
	return a, "", err
}

func (a putEntropy) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	c.setEntropy(a.cfg)
	return nil, nil
}

func (c *controller) setEntropy(cfg entropyConfig) {
	cfg.Limiter = cfg.Limiter.effective()
	if cfg.Limiter != nil {
		c.warn("rate limits")
	}
	c.vm.entropy = &cfg
}

// putSerial names the file of the console. It is opened when the VM starts.
type putSerial struct {
	onlyBeforeStart
	path    *string
	limiter *tokenBucket
}

func parsePutSerial(body []byte) (action, string, error) {
	var a putSerial
	err := decode(body, serde.Struct("SerialConfig",
		serde.Optional("serial_out_path", serde.Option(&a.path, serde.Path)),
		serde.Optional("rate_limiter", serde.Option(&a.limiter, decodeBucket))))
	return a, "", err
}

func (a putSerial) beforeStart(c *controller) (any, error) {
	if a.limiter.effective() != nil {
		c.warn("rate limits")
	}
	c.vm.serialPath = a.path
	return nil, nil
}
