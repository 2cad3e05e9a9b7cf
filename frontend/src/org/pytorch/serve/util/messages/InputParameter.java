package org.pytorch.serve.util.messages;

import java.nio.charset.StandardCharsets;

/** One named part of a request. Stands in for TorchServe's class, which copies every body once more. */
public class InputParameter {
    private final String name;
    private final byte[] value;
    private final CharSequence contentType;

    /** TorchServe never asks for it; here since its own has one. */
    public InputParameter() {
        this(null, new byte[0], null);
    }

    public InputParameter(String name, String value) {
        this(name, value.getBytes(StandardCharsets.UTF_8), null);
    }

    public InputParameter(String name, byte[] value) {
        this(name, value, null);
    }

    /** @param value is kept, not copied: nobody may change it afterwards. */
    public InputParameter(String name, byte[] value, CharSequence contentType) {
        this.name = name;
        this.value = value;
        this.contentType = contentType;
    }

    public String getName() {
        return name;
    }

    public byte[] getValue() {
        return value;
    }

    public CharSequence getContentType() {
        return contentType;
    }
}
