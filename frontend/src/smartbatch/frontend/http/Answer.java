package smartbatch.frontend.http;

import com.google.gson.JsonObject;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaderValues;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpStatusClass;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import java.nio.charset.StandardCharsets;

/** Answers that the frontend gives by itself, in the form that the handler's have. */
public final class Answer {
    private Answer() {}

    /** The whole answer with this JSON document as its body. */
    public static FullHttpResponse json(HttpResponseStatus status, String json) {
        ByteBuf body = Unpooled.copiedBuffer(json, StandardCharsets.UTF_8);
        FullHttpResponse answer = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, status, body);
        answer.headers().set(HttpHeaderNames.CONTENT_TYPE, HttpHeaderValues.APPLICATION_JSON);
        answer.headers().set(HttpHeaderNames.CONTENT_LENGTH, body.readableBytes());
        return answer;
    }

    /** {@code {"error": {"code": code, "message": message}}}: a code for programs, a message for people. */
    public static FullHttpResponse error(HttpResponseStatus status, String code, String message) {
        JsonObject error = new JsonObject();
        error.addProperty("code", code);
        error.addProperty("message", message);
        JsonObject body = new JsonObject();
        body.add("error", error);
        return json(status, body.toString());
    }

    /** 503 `overloaded`: the same request may be taken a second later. */
    static FullHttpResponse overloaded(String why) {
        FullHttpResponse answer = error(HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", why + "; retry later");
        answer.headers().set(HttpHeaderNames.RETRY_AFTER, 1);
        return answer;
    }

    /** Whether it goes before the answer proper, as 100 Continue does. */
    static boolean isInterim(Object message) {
        return message instanceof HttpResponse head && head.status().codeClass() == HttpStatusClass.INFORMATIONAL;
    }

    /** Whether it is the last piece of an answer; of one in one piece it is the only one. */
    static boolean isLast(Object message) {
        return message instanceof LastHttpContent && !isInterim(message);
    }
}
