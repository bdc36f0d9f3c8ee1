"""What a call costs on its way through a gateway, beside other gateways in the same run."""
